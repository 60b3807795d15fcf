"""Values of fields: how they are shown in errors, and which numbers and words are taken."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest

from darkroom.errors import InvalidInput
from darkroom.family_settings import settings_classes
from darkroom.pipelines.sd15 import request as sd15
from darkroom.pipelines.sd15.settings import Settings as Sd15Settings
from darkroom.pipelines.upscale import request as upscale
from darkroom.pipelines.upscale.settings import Settings as UpscaleSettings
from darkroom.png import encode_png
from darkroom.registry import families
from darkroom.request.edge import Whole, edge_model, named, texts
from darkroom.request.fields import ANY_SEED, SEED_RANGE, choice, integer, number, shown
from darkroom.request.request import Request
from proxy.validation import validated

NUMBERS: tuple[Any, ...] = (
    10**309,
    -(10**309),
    10**4000,
    2**63,
    -(2**63) - 1,
    math.inf,
    -math.inf,
    math.nan,
    1e308,
    "1" + "0" * 400,
    "-1" + "0" * 400,
    "9" * 5000,
    "9" * 50_000,
    "1e400",
    "-1e400",
    "1e999999999",
    "inf",
    "nan",
    "0x10",
    "１２",
    " ",
    "x" * 10_000,
    [10**5000],
    {"a": 10**5000},
    b"12",
    True,
)
IMAGE = encode_png(np.zeros((64, 64, 3), np.uint8))
KINDS: tuple[type[Request], ...] = tuple(family.request for family in families().values())
LIMITS: dict[type[Request], Any] = {family.request: settings_classes()[name]() for name, family in families().items()}


def taken(kind: type[Request], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request as an endpoint takes them."""
    model, ranges = edge_model(kind), kind.ranges(LIMITS[kind])
    return named(kind, validated(fields, model, ranges, texts(kind)).model_dump())


def generate(**fields: Any) -> dict[str, Any]:
    return taken(sd15.GenerateRequest, {"prompt": "a", **fields})


def _refused(kind: type[Request], name: str, value: Any) -> InvalidInput | float:
    """The error for a value, or the number that it is taken for."""
    try:
        given = taken(kind, {"prompt": "a cat", name: value})
        kind.parse({**given, **{key: [IMAGE] for key in kind.image_list_fields()}}, LIMITS[kind])
    except InvalidInput as error:
        return error
    return float(given[kind.aliases().get(name, name)])


@pytest.mark.parametrize("value", NUMBERS, ids=lambda value: shown(value, 12))
@pytest.mark.parametrize("kind", KINDS, ids=list(families()))
def test_every_number_is_refused_or_in_its_range(kind: type[Request], value: Any) -> None:
    ranges = kind.ranges(LIMITS[kind])
    for name in edge_model(kind).model_fields.keys() & ranges.keys():
        ours = kind.aliases().get(name, name)
        found = _refused(kind, name, value)
        if isinstance(found, InvalidInput):
            assert found.param in (name, ours)
            assert "from " in found.message or "file" in found.message, found.message
            assert len(found.message) < 250, found.message
        else:  # full-width digits are digits to Python
            low, high = ranges[ours]
            assert low <= found <= high, (name, value)


def test_shown_is_short_and_never_fails() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (*NUMBERS, 10**100_000, circle, {1: circle}, object(), "\ud800\n\x1b[31m", memoryview(b"ab"), None):
        text = shown(value)
        assert len(text) < 120
        assert text.isprintable()


def test_shown_says_how_much_there_is() -> None:
    assert shown(150) == "150"
    assert shown(-(10**18)) == "-1000000000000000000"
    assert shown(12345678 * 10**393) == "12345678... (about 401 digits)"
    assert shown(-(10**400)).startswith("-1")
    assert shown("x" * 61) == repr("x" * 60)[:-1] + "...' (61 characters)"
    assert shown("x" * 60) == repr("x" * 60)
    assert shown(b"abc") == "a file of 3 bytes"
    assert shown(0.5) == "0.5"


def test_integer_never_depends_on_how_many_digits_python_reads() -> None:
    most = sys.get_int_max_str_digits() if hasattr(sys, "get_int_max_str_digits") else 4300
    with pytest.raises(InvalidInput, match="tile must be from 32 to 4096 \\(0 for no tiling\\); got"):
        integer({"tile": "9" * (most + 1)}, "tile", 400, (32, 4096), also={0: "no tiling"})
    with pytest.raises(InvalidInput, match=r"scale must be from 1 to 8; got 1000.*digits"):
        number({"scale": 10**400}, "scale", 4, (1.0, 8.0))


@pytest.mark.parametrize("value", [-1, "-1", " -1 ", -1.0, None])
def test_seed_of_minus_one_is_drawn(value: Any) -> None:
    given = generate(seed=value)
    seeds = {sd15.GenerateRequest.parse(given, Sd15Settings()).seed for _ in range(20)}
    assert len(seeds) > 1
    assert min(seeds) >= 0


@pytest.mark.parametrize("value", [-2, SEED_RANGE[1] + 1, -(10**30)])
def test_seed_of_other_values_out_of_range(value: int) -> None:
    with pytest.raises(InvalidInput, match=r"seed must be from 0 to 9223372036854774783 \(-1 for any\); got"):
        sd15.GenerateRequest.parse({"prompt": "a", "seed": value}, Sd15Settings())
    assert sd15.GenerateRequest.parse({"prompt": "a", "seed": 0}, Sd15Settings()).seed == 0
    assert ANY_SEED == -1


@pytest.mark.parametrize("word", ["png", "PNG", " Png\n"])
def test_choice_in_any_case(word: str) -> None:
    assert choice("format", word, ("png", "webp")) == "png"


@pytest.mark.parametrize("word", ["", "pngs", None, 7, ["png"], b"png"])
def test_choice_refuses_other_words(word: Any) -> None:
    with pytest.raises(InvalidInput, match="format must be one of png, webp; got"):
        choice("format", word, ("png", "webp"))


def test_names_of_upscalers_formats_and_controls_in_any_case() -> None:
    request = upscale.UpscaleRequest.parse({"model": "X4PLUS", "format": "JPG"}, UpscaleSettings())
    assert (request.network.label, request.format) == ("x4plus", "jpeg")
    given = generate(control_type=" CANNY ", format="WebP")
    made = sd15.GenerateRequest.parse(given | {"control_image": b"image"}, Sd15Settings())
    assert made.control is not None
    assert (made.control.kind, made.format) == ("canny", "webp")


@pytest.mark.parametrize("name", sorted(edge_model(sd15.GenerateRequest).model_fields))
def test_files_where_text_belongs_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} must be text and no file; got a file of 2 bytes") as caught:
        validated({"prompt": "a", name: b"12"}, edge_model(sd15.GenerateRequest))
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ("512x768", (512, 768)),
        ("512X768", (512, 768)),
        (" 512 × 768 ", (512, 768)),
        ("auto", (None, None)),
        ("AUTO", (None, None)),
    ],
)
def test_size_is_width_and_height(size: str, sides: tuple[int | None, int | None]) -> None:
    given = generate(size=size)
    assert (given.get("width"), given.get("height")) == sides
    assert "size" not in given


@pytest.mark.parametrize("size", ["512", "512x", "axb", "512x768x3", "-1x5", "9" * 5000 + "x9", "1.5x2"])
def test_size_that_is_none_says_what_is_right(size: str) -> None:
    with pytest.raises(InvalidInput, match="512x768") as caught:
        generate(size=size)
    assert caught.value.param == "size"
    assert len(caught.value.message) < 250


def test_size_against_width_and_height() -> None:
    same = generate(size="64x128", width=64)
    assert (same["width"], same["height"]) == (64, 128)
    with pytest.raises(InvalidInput, match="height and size are one field; got 64 and 128"):
        generate(size="64x128", height=64)


def test_whole_numbers_of_parameters_have_no_bound_of_digits() -> None:
    from pydantic import TypeAdapter

    assert TypeAdapter(Whole).validate_python("1" + "0" * 4999) > 10**900
