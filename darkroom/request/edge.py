"""The fields of a request as REST endpoints accept them: types, aliases and shorthands.

The types are pydantic's, which reads JSON and texts of forms; the ranges are checked by `Request.parse`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, create_model
from pydantic import Field as PydanticField
from pydantic_core import PydanticCustomError

from darkroom.errors import InvalidInput
from darkroom.request.field import Field
from darkroom.request.fields import choice, shown
from darkroom.request.request import Request, kind_of

NO_SUCH_WORD = "word"
"""Type of the pydantic error for a text that is none of the allowed words; the message is ours."""
_LONG_NUMBER = re.compile(r"\s*[+-]?\d{1000,}\s*")


def _plain_number(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read it as 0 or 1
        raise PydanticCustomError("number_type", "Input should be a number")
    if isinstance(value, str) and _LONG_NUMBER.fullmatch(value):
        return value.strip()[:1000]  # out of every range as it was, and Python reads no more than 4,300 digits
    return value


def _whole_characters(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can hold half a surrogate pair, which is not valid UTF-8
        raise PydanticCustomError("string_unicode", "Input should be a valid string") from None
    return value


Text = Annotated[str, AfterValidator(_whole_characters)]
Whole = Annotated[int, BeforeValidator(_plain_number)]
Number = Annotated[float, BeforeValidator(_plain_number)]
_JSON_TEXT = Annotated[str, BeforeValidator(lambda value: value if isinstance(value, str) else json.dumps(value))]
_TYPES: dict[type, Any] = {str: Text, int: Whole, float: Number, bool: bool}


def word(name: str, allowed: Iterable[str], other_names: Mapping[str, str] | None = None) -> AfterValidator:
    """A text that is one of a few words, in any case."""

    def check(value: str) -> str:
        try:
            return choice(name, value, allowed, other_names=other_names)
        except InvalidInput as error:  # passed on by pydantic, which knows in which entry of a list it is
            raise PydanticCustomError(NO_SUCH_WORD, "{message}", {"message": error.message}) from None

    return AfterValidator(check)


def optional(help: str, default: Any = None, **schema: Any) -> Any:
    """An optional field, with the default that the documentation shows and what else that says of it."""
    extra: dict[str, Any] = {} if default is None else {"default": default}
    return PydanticField(None, description=help, json_schema_extra=extra | schema)


@cache
def edge_model(kind: type[Request]) -> type[BaseModel]:
    """Return the model of a REST endpoint's fields, without images; each is optional unless the request needs it."""
    made: dict[str, Any] = {}
    for name, about in kind.fields().items():
        if not about.rest or kind_of(kind, name) in (bytes, tuple):
            continue
        made[name] = _edge_field(kind, name, about)
        for alias in about.aliases:
            made[alias] = (_TYPES[kind_of(kind, name)] | None, optional(f"Another name of `{name}`."))
    for name, short in kind.shorthands.items():
        made[name] = (_TYPES[short.kind] | None, optional(short.help, short.default, **short.schema))
    return create_model(f"{kind.__name__}Fields", **made)


def _edge_field(kind: type[Request], name: str, about: Field) -> tuple[Any, Any]:
    info, words = kind.model_fields[name], about.rest_words or about.allowed_words()
    of = _JSON_TEXT if about.json else _TYPES[kind_of(kind, name)]
    if words and about.convert is None:
        of = Annotated[of, word(name, words, about.other_words)]
    if info.is_required():
        return of, PydanticField(description=about.help)
    schema = dict(about.schema) | ({"enum": list(words)} if words else {})
    hidden = about.from_checkpoint or info.default in about.also
    return of | None, optional(about.help, None if hidden else info.default, **schema)


@cache
def rest_names(kind: type[Request]) -> frozenset[str]:
    """Return every name that REST endpoints accept: fields, aliases, shorthands and images."""
    taken = (*kind.image_fields(), *kind.image_list_fields())
    images = {name for image in taken for name in (image, *kind.fields()[image].aliases)}
    return frozenset({*edge_model(kind).model_fields, *images})


@cache
def texts(kind: type[Request]) -> frozenset[str]:
    """Return the fields that may be empty texts. For others an empty text in a form counts as absent."""
    return frozenset(name for name, about in kind.fields().items() if about.may_be_empty)


def named(kind: type[Request], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an edge model by the names of the fields, without absent ones.

    :raises InvalidInput: two names of one field, with different values; a shorthand that cannot be read.
    """
    plain = {name: value for name, value in values.items() if value is not None}
    found = {name: value for name, value in plain.items() if name in kind.fields()}
    for alias, name in kind.aliases().items():
        if alias in plain:
            _agree(found, name, alias, plain[alias])
    for short, about in kind.shorthands.items():
        for name, value in about.read(plain[short]).items() if short in plain else ():
            if about.overrides:
                found[name] = value
            else:
                _agree(found, name, short, value)
    return {name: value for name, value in found.items() if value is not None}


def _agree(found: dict[str, Any], name: str, other: str, value: Any) -> None:
    """Store a value that was sent under an alias; refuse it if the field has a different value."""
    if found.get(name) not in (None, value):
        raise InvalidInput(
            f"{name} and {other} are one field; got {shown(found[name])} and {shown(value)}.", param=other
        )
    found[name] = value
