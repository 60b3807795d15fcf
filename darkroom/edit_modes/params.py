"""The JSON fields of a request with a mode: `text_params_json` and `additional_params_json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, field_validator
from pydantic import Field as PydanticField

from darkroom.edit_modes.modes import MOST_IMAGES
from darkroom.errors import InvalidInput
from darkroom.request.fields import shown

TEXT_PARAMS = "text_params_json"
ADDITIONAL_PARAMS = "additional_params_json"
LONGEST_TEXT = 500
LONGEST_WORDS = 200
MOST_FEATURES = 20

_Content = Annotated[str, StringConstraints(max_length=LONGEST_TEXT)]
_Words = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_WORDS)]


class _Params(BaseModel):
    """Unknown fields are kept in `model_extra`, to be named in warnings. An empty text counts as absent."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_absent(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value


class TextParams(_Params):
    """What is to become of the text in an image."""

    old_text: _Content | None = PydanticField(None, description="The text that is there.")
    new_text: _Content | None = PydanticField(None, description="The text that is to be there.")
    position: _Words | None = PydanticField(None, description='Where the text is or is to be: "center".')
    font_type: _Words | None = PydanticField(None, description='The font: "Arial".')
    color: _Words | None = PydanticField(None, description='The colour of the text: "red".')

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the fields that have a value."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)


class AdditionalParams(_Params):
    """What else shapes the prompt."""

    positions: list[_Words] | None = PydanticField(
        None,
        description="Where the subject of each image is to be, in the order of the images.",
        max_length=MOST_IMAGES,
    )
    style: _Words | None = PydanticField(None, description='The style of the result: "realistic".')
    preserve_features: list[_Words] | None = PydanticField(
        None, description='What is to stay as it is: ["face", "hair"].', max_length=MOST_FEATURES
    )
    make_control: bool | None = PydanticField(
        None, description="Of modes 13 to 16: whether the control image is made of the first image."
    )


Params = TypeVar("Params", bound=_Params)


def parse_text_params(value: object) -> TextParams:
    """Check the field `text_params_json`; see `_parsed`."""
    return _parsed(TextParams, TEXT_PARAMS, value)


def parse_additional_params(value: object) -> AdditionalParams:
    """Check the field `additional_params_json`; see `_parsed`."""
    return _parsed(AdditionalParams, ADDITIONAL_PARAMS, value)


def _parsed(kind: type[Params], name: str, value: object) -> Params:
    """Check one field.

    :param value: the JSON of an object, or an object; None or "" for none.
    :raises InvalidInput: names the field in it, what it should be and what came.
    """
    content: Any = {} if value is None or value == "" else value
    if isinstance(content, str):
        try:
            content = json.loads(content)
        except (ValueError, RecursionError):
            raise InvalidInput(f"{name} must be the JSON of an object; got {shown(value)}.", param=name) from None
    if not isinstance(content, Mapping):
        raise InvalidInput(f"{name} must be the JSON of an object; got {shown(content)}.", param=name)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise InvalidInput(f"{place}: {first['msg']}; got {shown(first['input'])}.", param=place) from None
