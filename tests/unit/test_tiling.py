"""Windows: one shape, full cover, enough margin."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from darkroom.tiling import cut, paste, spans, tiles


@pytest.mark.parametrize("length", [1, 7, 63, 64, 65, 400, 401, 512, 999, 2048, 10007])
@pytest.mark.parametrize(("tile", "pad"), [(0, 10), (64, 0), (64, 10), (400, 10), (33, 40)])
def test_spans_cover_everything_once_in_windows_of_one_length(length: int, tile: int, pad: int) -> None:
    found = spans(length, tile, pad)
    (window,) = {span.stop - span.start for span in found}
    assert window % 8 == 0
    assert found[0].core_start == 0
    assert found[-1].core_stop == length
    assert all(a.core_stop == b.core_start for a, b in itertools.pairwise(found))
    for span in found:
        assert span.core_start < span.core_stop
        assert tile == 0 or span.core_stop - span.core_start <= tile
        assert span.core_start - span.start >= pad
        assert span.stop - span.core_stop >= pad


def test_512_in_tiles_of_400_is_four_equal_windows() -> None:
    found = tiles(512, 512, tile=400, pad=10)
    assert {(t.rows.stop - t.rows.start, t.columns.stop - t.columns.start) for t in found} == {(280, 280)}
    assert len(found) == 4


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (37, 22), (130, 517)])
@pytest.mark.parametrize("colour", [True, False])
def test_cut_and_paste_is_the_picture(size: tuple[int, int], colour: bool) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3) if colour else size, np.uint8)
    enlarged = np.zeros((size[0] * 2, size[1] * 2, *picture.shape[2:]), np.uint8)
    for tile in tiles(*size, tile=50, pad=7):
        (window,) = cut(picture, tile)
        paste(window.repeat(2, 0).repeat(2, 1), enlarged, tile, 2)
    assert np.array_equal(enlarged, picture.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("size", [(30, 25), (5, 40), (1, 9), (3, 3)])
def test_outside_the_picture_it_is_mirrored(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    (whole,) = tiles(*size, tile=0, pad=10)
    margins = [
        (-span.start, span.stop - length) for span, length in zip((whole.rows, whole.columns), size, strict=True)
    ]
    assert np.array_equal(cut(picture, whole)[0], np.pad(picture, [*margins, (0, 0)], "reflect"))
