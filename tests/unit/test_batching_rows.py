"""How many rows run together: the caps of a network, by a size that its spec or its family computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from darkroom.serving.batching import NetworkCall, groups
from darkroom.serving.networks import ROW_SIZES, RowCaps, area, tokens


def job(*shape: int, name: str = "x") -> NetworkCall:
    return NetworkCall({name: np.zeros(shape, np.float32)}, ["y"])


def most(caps: RowCaps, *shape: int) -> int:
    return caps.most({caps.input: np.empty(shape, np.float32)})


def test_row_caps_by_area() -> None:
    caps = RowCaps.parse("latents 4096:4 9216:2")
    assert caps == RowCaps("latents", ((4096, 4), (9216, 2)), area)
    assert caps == RowCaps.parse("area latents 9216:2 4096:4")
    sizes = [(64, 64), (32, 128), (65, 64), (96, 96), (97, 96)]
    assert [most(caps, 1, 4, *sides) for sides in sizes] == [4, 4, 2, 2, 1]


def test_row_caps_by_tokens() -> None:
    """A packed input has no height and width; its last dimension says nothing of the size of the image."""
    caps = RowCaps.parse("tokens hidden_states 1024:8 4096:2")
    assert caps == RowCaps("hidden_states", ((1024, 8), (4096, 2)), tokens)
    assert [most(caps, 1, count, 64) for count in (256, 1024, 1025, 4096, 4097)] == [8, 8, 2, 2, 1]
    assert most(caps, 1, 1024, 10**6) == 8


def test_row_caps_by_a_rule_of_a_family() -> None:
    def padded(shape: Sequence[int]) -> int:
        return 100 if shape[1] < 100 else shape[1]

    caps = RowCaps("x", ((99, 8), (100, 3)), padded)
    assert [most(caps, 1, count) for count in (1, 100, 101)] == [3, 3, 1]


@pytest.mark.parametrize(
    "text",
    ["", "x", "tokens x", "16:2", "rows x 16:2", "tokens tokens x 16:2", "tokens x 16:0", "tokens x a:2", "x 16:2 y"],
)
def test_row_caps_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        RowCaps.parse(text)


def test_row_sizes_have_the_names_that_specs_use() -> None:
    assert {name: rule((2, 3, 5, 7)) for name, rule in ROW_SIZES.items()} == {"area": 35, "tokens": 3, "pixels": 15}


def test_groups_of_packed_rows_are_cut_by_their_tokens() -> None:
    caps = RowCaps.parse("tokens x 10:3 20:2")
    jobs = [job(1, 10, 64), job(2, 10, 64), job(1, 20, 64), job(1, 10, 64), job(1, 20, 64), job(1, 20, 64)]
    assert groups(jobs, batching=True, caps=caps) == [[0, 1], [3], [2, 4], [5]]
    assert groups(jobs, batching=True, caps=RowCaps.parse("x 10:3 20:2")) == [[index] for index in (0, 1, 3, 2, 4, 5)]
