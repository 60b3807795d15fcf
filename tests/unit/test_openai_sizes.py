"""The nearest size that a model can make, and how many tokens a request has."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.errors import InvalidInput
from proxy.openai.sizes import nearest_size, read_size
from proxy.openai.usage import InputTokens, image_tokens, text_tokens

SIDES = st.integers(1, 20_000)


@pytest.mark.parametrize(("text", "size"), [("auto", None), (None, None), ("512x768", (512, 768)), ("8X9", (8, 9))])
def test_size_is_read(text: str | None, size: tuple[int, int] | None) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["large", "0x64", "64x0", "64", "64x64x3", "-64x64", "1e3x64"])
def test_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="size") as refused:
        read_size(text)
    assert refused.value.param == "size"


@pytest.mark.parametrize(
    ("asked", "multiple", "most", "nearest"),
    [
        ((512, 768), 8, 1 << 20, (512, 768)),
        ((1024, 1536), 8, 1 << 20, (832, 1248)),
        ((500, 500), 8, 1 << 20, (504, 504)),
        ((1000, 1000), 16, 1 << 20, (1008, 1008)),
        ((1792, 1024), 8, 512 * 512, (672, 384)),
        ((32, 32), 8, 1 << 20, (64, 64)),
        ((9999, 1), 8, 1 << 16, (1024, 64)),
    ],
)
def test_nearest_size(asked: tuple[int, int], multiple: int, most: int, nearest: tuple[int, int]) -> None:
    assert nearest_size(asked, multiple=multiple, most=most) == nearest


@given(SIDES, SIDES, st.sampled_from([1, 8, 16, 32]), st.integers(128 * 128, 4096 * 4096))
def test_nearest_size_is_one_that_the_model_makes(width: int, height: int, multiple: int, most: int) -> None:
    found = nearest_size((width, height), multiple=multiple, most=most)
    assert min(found) >= 64
    assert found[0] * found[1] <= most
    assert all(side % multiple == 0 for side in found)
    if min(width, height) >= 64 and width * height <= most and width % multiple == height % multiple == 0:
        assert found == (width, height), "a size that it can make stays"
    if max(width, height) <= 3 * min(width, height) and min(found) >= 8 * multiple:
        assert abs(math.log(found[0] / found[1]) - math.log(width / height)) < 0.13, "the proportions stay"


def test_nearest_size_heeds_further_limits() -> None:
    found = nearest_size((1024, 512), multiple=16, most=1 << 20, takes=lambda size: size[0] * size[1] <= 256 * 256)
    assert found == (352, 176)


def test_tokens_are_counted_by_the_rule() -> None:
    assert text_tokens("a cat", None, "") == 2
    assert text_tokens("貓") == 1
    assert image_tokens([(1024, 1024), (17, 16)]) == 4096 + 2
    assert InputTokens(text=2, image=3).usage([(32, 32)]) == {
        "input_tokens": 5,
        "input_tokens_details": {"text_tokens": 2, "image_tokens": 3},
        "output_tokens": 4,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 4},
        "total_tokens": 9,
    }
