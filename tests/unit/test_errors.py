"""One tree: every class maps to HTTP, and survives the way through Triton."""

from __future__ import annotations

import pytest

from darkroom.errors import (
    DarkroomError,
    InvalidInput,
    ModerationBlocked,
    NotAnImage,
    NotFound,
    QueueFull,
    from_wire,
    to_wire,
    walk,
)
from proxy.error_shapes import native, openai, shape_of, web_ui
from proxy.errors import STATUS, describe, headers_of, problem_of

CONTRACT = {400, 401, 403, 404, 409, 410, 413, 415, 422, 429, 499, 500, 503, 504}


@pytest.mark.parametrize("kind", walk())
def test_every_error_has_a_status_of_the_contract(kind: type[DarkroomError]) -> None:
    assert STATUS[kind] in CONTRACT
    error = kind("What went wrong.", param="scale")
    status, body = native(problem_of(error))
    assert status == STATUS[kind]
    assert body["detail"] == body["error"]["message"]
    assert body["error"]["code"] == kind.code
    assert body["error"] == describe(error)
    assert ("Retry-After" in headers_of(error)) == (status in (429, 503))


@pytest.mark.parametrize("kind", walk())
def test_every_error_has_the_shape_of_openai(kind: type[DarkroomError]) -> None:
    status, body = openai(problem_of(kind("What went wrong.")))
    assert status == (400 if STATUS[kind] == 422 or kind is NotAnImage else STATUS[kind])
    assert body.keys() == {"error"}
    assert body["error"].keys() - {"rule"} == {"message", "type", "param", "code"}


def test_unknown_models_have_the_code_of_openai() -> None:
    status, body = openai(problem_of(NotFound("There is no such model.", param="model")))
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert openai(problem_of(NotFound("There is no such file.", param="name")))[1]["error"]["code"] == "not_found"


def test_a_refusal_by_a_rule_names_it_in_every_shape() -> None:
    problem = problem_of(ModerationBlocked("No.", rule="weapons"))
    assert native(problem)[1]["error"]["rule"] == "weapons"
    assert web_ui(problem)[1]["rule"] == "weapons"
    status, body = openai(problem)
    assert (status, body["error"]["type"]) == (400, "image_generation_user_error")
    assert (body["error"]["code"], body["error"]["rule"]) == ("moderation_blocked", "weapons")


@pytest.mark.parametrize(
    ("path", "shape"),
    [("/v1/images/edits", openai), ("/v1", openai), ("/v10", native), ("/sdapi/v1/options", web_ui)],
)
def test_the_path_decides_the_shape(path: str, shape: object) -> None:
    assert shape_of(path) is shape


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
    status, body = native(problem_of(ValueError("secret /path/of/ours")))
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
    assert headers_of(QueueFull("Full.", retry_after=7)) == {"Retry-After": "7"}
    assert not isinstance(QueueFull("Full."), InvalidInput)
