"""A field that is a list of texts: JSON over REST, the JSON of it in forms and on command lines."""

from __future__ import annotations

import json
from typing import Any

from darkroom.errors import InvalidInput
from darkroom.request.fields import shown


def parse_texts(name: str, value: object, *, most: int, longest: int) -> tuple[str, ...]:
    """Check a list of texts.

    :param name: of the field.
    :param value: the JSON of the list.
    :param most: texts.
    :param longest: characters of each.
    :raises InvalidInput: it is no list of 1 to `most` texts, or one of them is empty or too long.
    """
    try:
        texts = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        texts = value
    if not isinstance(texts, list) or not 1 <= len(texts) <= most:
        came = f"{len(texts)} entries" if isinstance(texts, list) else shown(texts)
        raise InvalidInput(f"{name} must be a list of 1 to {most} texts; got {came}.", param=name)
    for index, text in enumerate(texts):
        place = f"{name}[{index}]"
        if not isinstance(text, str) or not text.strip() or any("\ud800" <= one <= "\udfff" for one in text):
            raise InvalidInput(f"{place} must be a text that is not empty; got {shown(text)}.", param=place)
        if len(text) > longest:
            raise InvalidInput(f"{place} must have at most {longest} characters; got {len(text)}.", param=place)
    return tuple(text.strip() for text in texts)


def texts_schema(most: int, longest: int, example: str) -> dict[str, Any]:
    """Keywords for the OpenAPI schema of such a field."""
    items = {"type": "string", "minLength": 1, "maxLength": longest}
    array = {"type": "array", "items": items, "minItems": 1, "maxItems": most, "examples": [[example]]}
    return {"anyOf": [array, {"type": "string"}, {"type": "null"}]}
