"""Windows: one shape, full cover, enough margin."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from darkroom.tiling import spans, tiles


@pytest.mark.parametrize("length", [1, 7, 63, 64, 65, 400, 401, 512, 999, 2048, 10007])
@pytest.mark.parametrize(("tile", "pad"), [(0, 10), (64, 0), (64, 10), (400, 10), (33, 40)])
def test_spans_cover_everything_once_in_windows_of_one_length(length: int, tile: int, pad: int) -> None:
    found = spans(length, tile, pad)
    assert len({span.stop - span.start for span in found}) == 1
    assert found[0].core_start == 0
    assert found[-1].core_stop == length
    assert all(a.core_stop == b.core_start for a, b in itertools.pairwise(found))
    for span in found:
        assert 0 <= span.start <= span.core_start < span.core_stop <= span.stop <= length
        assert tile == 0 or span.core_stop - span.core_start <= tile
        assert span.core_start - span.start >= pad or span.start == 0
        assert span.stop - span.core_stop >= pad or span.stop == length


def test_a_picture_that_fits_is_one_tile() -> None:
    (only,) = tiles(400, 300, tile=400, pad=10)
    assert (only.rows.stop, only.columns.stop) == (400, 300)


def test_512_in_tiles_of_400_is_four_equal_windows() -> None:
    found = tiles(512, 512, tile=400, pad=10)
    assert {(t.rows.stop - t.rows.start, t.columns.stop - t.columns.start) for t in found} == {(272, 272)}
    assert len(found) == 4


def test_tiles_cover_every_pixel_once() -> None:
    seen = np.zeros((130, 517), int)
    for tile in tiles(130, 517, tile=50, pad=7):
        seen[tile.rows.core_start : tile.rows.core_stop, tile.columns.core_start : tile.columns.core_stop] += 1
    assert (seen == 1).all()
