"""Accept, JSON's cost, images in base64, files that a client has, host names, and the log, each by itself."""

from __future__ import annotations

import base64
import json
import logging
import sys
from collections.abc import Iterator

import pytest
from starlette.datastructures import Headers

from darkroom.errors import InvalidInput, TooLarge
from proxy.http.accept import Accept
from proxy.http.bodies import Kind, kind_of
from proxy.http.conditional import is_known
from proxy.http.json_body import _object, decoded
from proxy.http.json_gauge import MAX_ELEMENTS, JsonGauge
from proxy.observability import _dressed

EVENTS, JSON, PNG, WEBP = "text/event-stream", "application/json", "image/png", "image/webp"


@pytest.mark.parametrize(
    ("header", "events"),
    [
        ("text/event-stream", True),
        ("TEXT/Event-Stream;q=0.1", True),
        ("text/*", True),
        ("application/json, text/event-stream", True),
        ("text/event-stream;q=0.5, */*;q=0.1", True),
        ("text/event-stream;charset=utf-8", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream; q=0.000", False),
        ("text/*, text/event-stream;q=0", False),
        ("text/event-stream;q=0.5, application/json", False),
        ("text/event-stream;q=0.5, */*", False),
        ("text/event-stream;q=2", False),
        ("text/event-stream;q=nan", False),
        ("text/event-streams", False),
        ("*/*", False),
        ("", False),
        (";q=1,,;", False),
    ],
)
def test_events_are_sent_to_who_prefers_them(header: str, events: bool) -> None:
    assert Accept(header).prefers(EVENTS, JSON, PNG) is events


@pytest.mark.parametrize(
    ("header", "best"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("image/png", PNG),
        ("image/*", PNG),
        ("image/webp, image/png", WEBP),
        ("image/webp;q=0.9, image/png", PNG),
        ("image/*, image/png;q=0", WEBP),
        ("image/png, application/json", PNG),
        ("application/json, image/png", JSON),
        ("image/png;q=0.5, application/json;q=0.6", JSON),
        ("application/xml", JSON),
        ("*/*;q=0.1, image/webp;q=0.2", WEBP),
        ("image/png, */*", PNG),
    ],
)
def test_the_best_answer(header: str, best: str) -> None:
    assert Accept(header).best((JSON, PNG, WEBP)) == best


def fed(text: bytes, step: int) -> type[Exception] | None:
    gauge = JsonGauge()
    for at in range(0, len(text), step):
        error = gauge.feed(text[at : at + step])
        if error is not None:
            return type(error)
    return None


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_structure_within_strings_does_not_count(step: int) -> None:
    tricky = ['\\"[', "\\\\", '"', "\\", "[{,:" * (MAX_ELEMENTS if step > 7 else 100), "\\\\\\"]
    assert fed(json.dumps({"a": tricky, '"\\': 1}).encode(), step) is None


@pytest.mark.parametrize("hidden", ["\\\\", '\\"\\"', 'a\\\\\\"', ""])
@pytest.mark.parametrize("step", [13, 1 << 16])
def test_structure_behind_a_string_counts(hidden: str, step: int) -> None:
    text = b'["' + hidden.encode() + b'"' + b",[]" * MAX_ELEMENTS
    assert fed(text, step) is TooLarge


def test_json_in_utf_16_is_none() -> None:
    assert fed('{"a": 1}'.encode("utf-16"), 100) is InvalidInput


_LARGE = bytes(range(256)) * (12 << 10)  # 3 MB, every byte in it
_TEXT = base64.b64encode(_LARGE).decode()


def _lines() -> str:
    return "\r\n".join(_TEXT[at : at + 76] for at in range(0, len(_TEXT), 76))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"a": 1, "image": _TEXT, "z": "\\"}),
        json.dumps({"image": f"data:image/png;base64,{_TEXT}"}),
        json.dumps({"image": _lines()}),
        json.dumps({"image": _TEXT}).replace("/", "\\/"),
        json.dumps({"image": _TEXT}).replace("+", "\\u002b").replace("=", "\\u003D"),
    ],
)
def test_a_large_image_in_json_is_decoded(text: str) -> None:
    fields = _object(text.encode(), ("image",), 4)
    assert fields["image"] == _LARGE
    assert [type(value) for name, value in fields.items() if name != "image"] in ([], [int, str])


def test_large_images_in_a_list() -> None:
    assert _object(json.dumps({"image": [_TEXT, "x"]}).encode(), ("image",), 4)["image"] == [_LARGE, "x"]


@pytest.mark.parametrize(
    ("content", "error", "param"),
    [
        ({"prompt": _TEXT}, TooLarge, "prompt"),
        ({"a": {"image": _TEXT}}, TooLarge, "body"),
        ({_TEXT: 1}, TooLarge, "body"),
        ({"image": _TEXT + "!"}, InvalidInput, "image"),
        ({"image": _TEXT[:-1]}, InvalidInput, "image"),
        ({"image": _TEXT[:100] + "=" + _TEXT[101:]}, InvalidInput, "image"),
        ({"image": _TEXT + "\u00e9"}, InvalidInput, "image"),
        ({"image": "data:image/png," + _TEXT}, InvalidInput, "image"),
        ({"a": ["x" * (1 << 19)] * 10}, TooLarge, "body"),
    ],
)
def test_long_texts_that_are_no_image(content: object, error: type[InvalidInput], param: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        _object(json.dumps(content).encode(), ("image",), 100)
    assert (type(refused.value), refused.value.param) == (error, param)
    assert len(refused.value.message) < 200


def test_an_image_over_the_limit() -> None:
    with pytest.raises(TooLarge, match="over the limit of 1 MB"):
        _object(json.dumps({"image": _TEXT}).encode(), ("image",), 1)


def test_base64_in_pieces_of_any_size() -> None:
    def pieces(size: int) -> Iterator[bytes]:
        return (_TEXT[at : min(4000, at + size)].encode() for at in range(0, 4000, size))

    assert {decoded(pieces(size), "image", 1) for size in (7, 50, 4000)} == {_LARGE[:3000]}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("application/json", Kind.JSON),
        ("Application/JSON; charset=utf-8", Kind.JSON),
        ("application/vnd.x+json", Kind.JSON),
        ("text/json", None),
        ("text/plain", None),
        ("application/jsonp", None),
        ("multipart/form-data; boundary=x", Kind.MULTIPART),
        ("multipart/mixed", None),
        ("", None),
    ],
)
def test_kinds_of_bodies(name: str, kind: Kind | None) -> None:
    assert kind_of(name) is kind


_DATE, _LATER = "Sat, 28 Nov 2026 10:00:00 GMT", "Sat, 28 Nov 2026 10:00:01 GMT"


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        ({}, False),
        ({"if-none-match": '"a"'}, True),
        ({"if-none-match": 'W/"a"'}, True),
        ({"if-none-match": '"b", "a"'}, True),
        ({"if-none-match": "*"}, True),
        ({"if-none-match": '"b"'}, False),
        ({"if-none-match": '"b"', "if-modified-since": _LATER}, False),
        ({"if-modified-since": _DATE}, True),
        ({"if-modified-since": _LATER}, True),
        ({"if-modified-since": "Sat, 28 Nov 2026 09:59:59 GMT"}, False),
        ({"if-modified-since": "yesterday"}, False),
        ({"if-modified-since": "Sat, 28 Nov 2026 10:00:00"}, False),
    ],
)
def test_what_a_client_has(headers: dict[str, str], known: bool) -> None:
    assert is_known(Headers(headers), etag='"a"', modified=_DATE) is known


def test_log_records_are_one_line_and_tracebacks_are_indented() -> None:
    handler = _dressed(logging.NullHandler())
    try:
        raise ValueError("x\n2026-11-28 INFO forged \x1b[31m")
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, "", 0, "%s", ("a\nb\x9b\u2028\ud800",), sys.exc_info())
    record.request_id = "-"
    first, *rest = handler.format(record).split("\n")
    assert first.endswith("a\\nb\\x9b\\u2028\\ud800")
    assert len(rest) > 3
    assert all(line.startswith("    ") for line in rest)
    assert any("forged \\x1b[31m" in line for line in rest)
