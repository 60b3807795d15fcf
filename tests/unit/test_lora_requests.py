"""LoRAs that a request names: in the field `loras`, and in the prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from darkroom.diffusion.lora.tags import first_tag, parse_tags, take_loras, without_tags
from darkroom.errors import InvalidInput
from darkroom.request.loras import LoraChoice, parse_loras

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("prompt", "clean", "found"),
    [
        ("a cat", "a cat", []),
        ("a cat <lora:ink:0.8>", "a cat ", [("ink", 0.8)]),
        ("<lora:ink>a cat", "a cat", [("ink", 1.0)]),
        ("a <lora:ink:-0.5> cat, <LORA: my style v1.2 :.25>", "a  cat, ", [("ink", -0.5), ("my style v1.2", 0.25)]),
        ("<lyco:ink:1><lora:ink:0.5>x", "x", [("ink", 1.5)]),
        ("<lora:a:0>", "", [("a", 0.0)]),
        ("<lora:墨:1e0>", "", [("墨", 1.0)]),
        ("masterpiece, <lora:x:0.8>\r\nsecond", "masterpiece, \r\nsecond", [("x", 0.8)]),
        ("a <lora:x:0.8 cat", "a <lora:x:0.8 cat", []),
        ("a lora:x:0.8> cat", "a lora:x:0.8> cat", []),
        ("<lora:<lora:a:1>:1>", "<lora::1>", [("a", 1.0)]),
        ("(<lora:a:1>:1.2) <hypernet:b:1> <lora>", "(:1.2) <hypernet:b:1> <lora>", [("a", 1.0)]),
        ("<" * 50_000 + "lora:" * 10_000, "<" * 50_000 + "lora:" * 10_000, []),
    ],
)
def test_lora_tags(prompt: str, clean: str, found: list[tuple[str, float]]) -> None:
    assert parse_tags(prompt) == (clean, found)
    assert take_loras(prompt) == (clean, tuple(LoraChoice(name=name, weight=weight) for name, weight in found))
    assert without_tags(prompt) == clean
    assert bool(first_tag(prompt)) == bool(found)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("<lora:>", "'<lora:>' must have a name"),
        ("<lora: :1>", "must have a name"),
        ("<lora:a\nb:1>", "must have a name of 1 to 200 characters in one line"),
        (f"<lora:{'a' * 201}>", "must have a name of 1 to 200 characters"),
        ("<lora:a:>", "the weight of '<lora:a:>' must be from -10 to 10; got ''"),
        ("<lora:a:strong>", "must be from -10 to 10; got 'strong'"),
        ("<lora:a:nan>", "got 'nan'"),
        ("<lora:a:inf>", "got inf"),
        ("<lora:a:10.5>", "got 10.5"),
        ("<lora:a:6><lora:a:6>", "the weight of the tags of 'a' must be from -10 to 10; got 12"),
        ("<lora:a:0.5:0.7>", "must have one weight, which all networks share; got 2"),
        ("<lora:a:te=0.5>", "got 'te=0.5'"),
        ("".join(f"<lora:{n}:1>" for n in range(9)), "at most 8 LoRAs; got 9"),
    ],
)
def test_lora_tags_that_are_refused(prompt: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_tags(prompt, "negative_prompt")
    assert caught.value.param == "negative_prompt"
    assert caught.value.message.startswith("negative_prompt")
    assert said in caught.value.message


def test_loras_of_a_request() -> None:
    entries = [
        {"name": " ink ", "weight": 0.5},
        {"session_id": "a1-b_2", "weights_by_step": [0, 1, -2.5], "weight": None},
        {"digest": DIGEST.upper(), "start": 0.25, "end": 0.75},
    ]
    expected = (
        LoraChoice(name="ink", weight=0.5),
        LoraChoice(session_id="a1-b_2", weights_by_step=(0.0, 1.0, -2.5)),
        LoraChoice(digest=DIGEST, start=0.25, end=0.75),
    )
    assert parse_loras(entries) == parse_loras(json.dumps(entries)) == expected
    assert [lora.reference for lora in expected] == [("name", "ink"), ("session_id", "a1-b_2"), ("digest", DIGEST)]
    assert parse_loras(json.dumps([lora.to_json() for lora in expected])) == expected
    assert expected[0].to_json() == {"name": "ink", "weight": 0.5}
    assert parse_loras([]) == ()


@pytest.mark.parametrize(
    ("value", "param", "said"),
    [
        ("[", "loras", "must be a JSON list of objects; got '['"),
        ("[" * 100_000, "loras", "must be a JSON list of objects"),
        ("{}", "loras", "must be a list of objects; got an object"),
        (5, "loras", "must be a list of objects; got 5"),
        ([{"name": str(n)} for n in range(9)], "loras", "at most 8 entries; got 9"),
        ([5], "loras[0]", "must be an object; got 5"),
        ([{"name": "a"}, {}], "loras[1]", "exactly one of name, session_id, digest; got none of them"),
        ([{"name": "a", "session_id": "1"}], "loras[0]", "got name and session_id"),
        ([{"name": "a", "wieght": 1}], "loras[0]", "has no field 'wieght'"),
        ([{"name": "a"}, {"name": "a "}], "loras[1].name", "has the name 'a' twice"),
        ([{"name": ""}], "loras[0].name", "1 to 200 characters"),
        ([{"name": "a\nb"}], "loras[0].name", "in one line"),
        ([{"name": "a" * 201}], "loras[0].name", "1 to 200 characters"),
        ([{"session_id": [1]}], "loras[0].session_id", "must be the id of a session; got a list of 1"),
        ([{"digest": DIGEST[1:]}], "loras[0].digest", "64 hexadecimal digits"),
        ([{"name": "a", "weight": 10.1}], "loras[0].weight", "must be from -10 to 10; got 10.1"),
        ([{"name": "a", "weight": "1"}], "loras[0].weight", "must be a number from -10 to 10; got '1'"),
        ([{"name": "a", "weight": True}], "loras[0].weight", "got True"),
        ([{"name": "a", "weight": float("nan")}], "loras[0].weight", "got nan"),
        ([{"name": "a", "weights_by_step": 1}], "loras[0].weights_by_step", "a list of at most 1000 numbers; got 1"),
        ([{"name": "a", "weights_by_step": [0] * 1001}], "loras[0].weights_by_step", "got a list of 1,001"),
        ([{"name": "a", "weights_by_step": [0, 11]}], "loras[0].weights_by_step[1]", "-10 to 10; got 11"),
        ([{"name": "a", "start": -0.1}], "loras[0].start", "must be from 0 to 1; got -0.1"),
        ([{"name": "a", "start": 0.5, "end": 0.5}], "loras[0].start", "must be below end; got 0.5 and 0.5"),
    ],
)
def test_loras_of_a_request_that_are_refused(value: Any, param: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_loras(value)
    assert caught.value.param == param
    assert said in caught.value.message
