"""Checks the types of what an endpoint was sent, with errors that name the field, what it should be and what came."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from darkroom.errors import InvalidInput
from darkroom.request.edge import NO_SUCH_WORD
from darkroom.request.field import out_of_range
from darkroom.request.fields import Bounds, shown
from proxy.errors import entry

Model = TypeVar("Model", bound=BaseModel)


def validated(
    fields: Mapping[str, Any],
    model: type[Model],
    ranges: Mapping[str, Bounds] | None = None,
    texts: Collection[str] = ("prompt", "negative_prompt"),
) -> Model:
    """Check the types. Fields that were left empty count as absent, but for texts.

    :param ranges: of the numbers, to name them in errors.
    :param texts: the fields that may be empty.
    :raises InvalidInput, RequestValidationError: the field, what it should be and what came.
    """
    for name in model.model_fields:
        if isinstance(fields.get(name), bytes):
            raise InvalidInput(f"{name} must be text and no file; got {shown(fields[name])}.", param=name)
    try:
        return model.model_validate({name: v for name, v in fields.items() if v != "" or name in texts})
    except ValidationError as error:
        first = error.errors()[0]
        name = next(str(part) for part in reversed(first["loc"]) if isinstance(part, str))
        where = entry(first["loc"])
        if first["type"] == NO_SUCH_WORD:
            raise InvalidInput(where + first["msg"], param=name) from None
        bounds = (ranges or {}).get(name)
        if bounds is not None and first["type"] != "missing":
            wanted = "a number" if first["type"].startswith(("float", "number")) else "a whole number (integer)"
            refused = out_of_range(name, bounds, first["input"], wanted)
            raise InvalidInput(where + refused.message, param=name) from None
        raise RequestValidationError(error.errors()) from None
