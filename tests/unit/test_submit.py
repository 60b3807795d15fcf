"""`POST /submit` in front of an operation: names of fields, and errors of the operation as the client reads them."""

from __future__ import annotations

import pytest

from darkroom.errors import InvalidInput, NotAnImage, TooLarge
from proxy.surfaces.submit import _as_sent


@pytest.mark.parametrize("kind", [InvalidInput, NotAnImage, TooLarge])
def test_errors_keep_their_kind_and_so_their_status(kind: type[InvalidInput]) -> None:
    error = _as_sent(kind("control_image is wrong.", param="control_image"), {}, 1, 3)
    assert (type(error), error.message, error.param) == (kind, "requests[1]: control_image is wrong.", "control_image")


@pytest.mark.parametrize(("sent", "name"), [("num_inference_steps", "num_inference_steps"), ("steps", "steps")])
def test_errors_name_the_field_that_was_sent(sent: str, name: str) -> None:
    error = _as_sent(InvalidInput("steps must be from 1 to 150; got 200.", param="steps"), {sent: 200}, 0, 1)
    assert (error.message, error.param) == (f"{name} must be from 1 to 150; got 200.", name)
