"""A request field is written once: checks, Triton inputs, REST types and ranges all come from its `Field`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError

from darkroom.errors import InvalidInput
from darkroom.registry import families
from darkroom.request.edge import edge_model, named, rest_names
from darkroom.request.field import Field, Shorthand
from darkroom.request.request import Request
from darkroom.request.tensors import to_tensors, triton_inputs

LIMITS = SimpleNamespace(most=9, longest=5, usual=4)


class Toy(Request):
    shorthands: ClassVar = {
        "both": Shorthand(help="Count and share.", kind=str, read=lambda text: {"count": len(text), "share": 0.5})
    }

    text: Annotated[str, Field(help="A text.", longest="longest", may_be_empty=True)]
    count: Annotated[int, Field(help="A number.", low=1, high="most", aliases=("n",), multiple=3)] = 6
    share: Annotated[float | None, Field(help="A share.", low=0.0, high=1.0)] = None
    kind: Annotated[str, Field(help="A word.", words=("red", "blue"))] = "red"
    level: Annotated[int, Field(help="A level.", low=1, high=8, default="usual", dtype="INT64")] = 1
    fine: Annotated[bool, Field(help="Yes or no.")] = False
    image: Annotated[bytes | None, Field(help="An image.", aliases=("file",))] = None
    quiet: Annotated[int, Field(help="For programs only.", low=0, high=9, rest=False)] = 0


def parse(**fields: Any) -> Toy:
    return Toy.parse({"text": "a", **fields}, LIMITS)


def test_request_is_frozen_and_has_its_defaults() -> None:
    request = parse()
    assert (request.count, request.share, request.kind, request.level, request.fine) == (6, None, "red", 4, False)
    with pytest.raises(ValidationError, match="frozen"):
        request.count = 3  # type: ignore[misc]


def test_request_knows_what_was_given() -> None:
    assert parse(count=3, share=None).model_fields_set == {"text", "count"}
    assert parse().with_values(fine=True).model_fields_set == {"text", "fine"}


def test_request_tells_an_empty_text_from_an_absent_one() -> None:
    assert Toy.parse({"text": ""}, LIMITS).text == ""
    with pytest.raises(InvalidInput, match="text is missing"):
        Toy.parse({"text": None}, LIMITS)
    assert parse(kind="").kind == "red", "left empty"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, "count must be from 1 to 9; got 0"),
        ({"count": 4}, "count must be a multiple of 3; got 4"),
        ({"count": "many"}, "count must be from 1 to 9; got 'many'"),
        ({"share": 1.5}, "share must be from 0 to 1; got 1.5"),
        ({"kind": "green"}, "kind must be one of red, blue; got 'green'"),
        ({"text": "abcdef"}, "text must have at most 5 characters; got 6"),
    ],
)
def test_request_refuses_with_field_range_and_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        parse(**fields)
    assert caught.value.param in fields


def test_default_of_the_checkpoint_goes_before_the_others_and_under_the_limit() -> None:
    assert Toy.parse({"text": "a"}, LIMITS, {"count": 3, "level": 2}).count == 3
    assert Toy.parse({"text": "a"}, LIMITS, {"count": 3}).model_fields_set == {"text"}
    assert Toy.parse({"text": "a"}, LIMITS, {"count": 12}).count == 9


def test_triton_inputs_follow_the_types() -> None:
    found = {tensor.name: (tensor.dtype, tensor.dims, tensor.optional) for tensor in triton_inputs(Toy)}
    assert found == {
        "text": ("STRING", (1,), False),
        "count": ("INT32", (1,), True),
        "share": ("FP32", (1,), True),
        "kind": ("STRING", (1,), True),
        "level": ("INT64", (1,), True),
        "fine": ("BOOL", (1,), True),
        "image": ("UINT8", (-1,), True),
        "quiet": ("INT32", (1,), True),
    }


def test_tensors_of_a_request_make_the_same_request_again() -> None:
    request = parse(count=3, share=0.25, kind="BLUE", level=2**3, fine=True, image=b"\x00\xff", quiet=1)
    tensors = to_tensors(request)
    assert tensors["level"].dtype == np.int64
    again = Toy.parse({name: array if name == "image" else array[0] for name, array in tensors.items()}, LIMITS)
    assert again == request
    assert to_tensors(parse()).keys() == {"text"}, "the model has the same defaults"


def test_rest_fields_have_other_names_and_shorthands() -> None:
    model = edge_model(Toy)
    assert rest_names(Toy) == {"text", "count", "n", "share", "kind", "level", "fine", "both", "image", "file"}
    given = named(Toy, model(text="a", n="3", fine="true").model_dump())
    assert given == {"text": "a", "count": 3, "fine": True}
    assert named(Toy, model(text="a", both="abc").model_dump()) == {"text": "a", "count": 3, "share": 0.5}
    with pytest.raises(InvalidInput, match="count and n are one field; got 3 and 6"):
        named(Toy, model(text="a", count=3, n=6).model_dump())


def test_rest_schema_has_help_words_and_defaults() -> None:
    properties = edge_model(Toy).model_json_schema()["properties"]
    assert properties["count"]["default"] == 6
    assert properties["count"]["description"] == "A number."
    assert properties["kind"]["enum"] == ["red", "blue"]
    assert properties["n"]["description"] == "Another name of `count`."
    assert "quiet" not in properties


def test_field_without_a_description_is_refused() -> None:
    class Bare(Request):
        text: str = ""

    with pytest.raises(TypeError, match=r"Bare\.text has no Field"):
        Bare.fields()


@pytest.mark.parametrize("name", list(families()))
def test_pipeline_takes_the_fields_of_the_family(name: str) -> None:
    family = families()[name]
    assert family.pipeline.inputs == triton_inputs(family.request)
    assert all(about.help.endswith((".", "!")) for about in family.request.fields().values())
