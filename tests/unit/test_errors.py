"""One tree: every class maps to HTTP, and survives the way through Triton."""

from __future__ import annotations

import pytest

from darkroom.errors import DarkroomError, InvalidInput, QueueFull, from_wire, to_wire, walk
from proxy.errors import STATUS, describe

CONTRACT = {400, 404, 409, 410, 413, 415, 422, 429, 499, 500, 503, 504}


@pytest.mark.parametrize("kind", walk())
def test_every_error_has_a_status_of_the_contract(kind: type[DarkroomError]) -> None:
    assert STATUS[kind] in CONTRACT
    status, body, headers = describe(kind("What went wrong.", param="scale"))
    assert status == STATUS[kind]
    assert body["detail"] == body["error"]["message"]
    assert body["error"]["code"] == kind.code
    assert ("Retry-After" in headers) == (status in (429, 503))


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in walk()]
    assert len(set(codes)) == len(codes)


def test_nothing_is_mapped_that_is_not_there() -> None:
    assert set(STATUS) == set(walk())


@pytest.mark.parametrize("kind", walk())
def test_through_triton_and_back(kind: type[DarkroomError]) -> None:
    text = f"in ensemble 'x': {to_wire(kind('Too big: 3 > 2.', param='scale'))} and more"
    back = from_wire(text)
    assert type(back) is kind
    assert (back.message, back.param) == ("Too big: 3 > 2.", "scale")


def test_foreign_errors_tell_nothing_of_the_inside() -> None:
    back = from_wire(to_wire(RuntimeError("secret /path/of/ours")))
    assert back is not None
    assert type(back) is DarkroomError
    assert "secret" not in back.message
    status, body, _ = describe(ValueError("secret /path/of/ours"))
    assert status == 500
    assert "secret" not in str(body)


@pytest.mark.parametrize(
    "text", ["", "darkroom-error:", "darkroom-error:{", 'darkroom-error:{"code": 1}', "darkroom-error:[]"]
)
def test_other_texts_are_not_ours(text: str) -> None:
    assert from_wire(text) is None


def test_unknown_codes_become_the_base() -> None:
    back = from_wire('darkroom-error:{"code": "from_the_future", "message": "m", "param": null}')
    assert type(back) is DarkroomError


def test_retry_after_is_whole_seconds() -> None:
    assert describe(QueueFull("Full.", retry_after=7))[2] == {"Retry-After": "7"}
    assert not isinstance(QueueFull("Full."), InvalidInput)
