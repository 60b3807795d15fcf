"""The base of every family's request: a frozen pydantic model whose fields carry a `Field` each.

A request is checked once, at the edge, by `parse`; the Triton model reads the same type of its inputs by the same
`parse`. `model_fields_set` holds the given fields, so that absent ones can take the defaults of the checkpoint.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict
from typing_extensions import Self

from darkroom.errors import InvalidInput
from darkroom.request.field import Field, Shorthand, check
from darkroom.request.fields import Bounds

Resolved = TypeVar("Resolved", bound="Request")


class Request(BaseModel):
    """One request. Subclasses add fields as `name: Annotated[type, Field(...)] = default`."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    shorthands: ClassVar[Mapping[str, Shorthand]] = {}
    """Fields of REST endpoints that stand for others, by name."""

    @classmethod
    def parse(cls, fields: Mapping[str, Any], limits: Any, defaults: Mapping[str, Any] | None = None) -> Self:
        """Check named fields; those that are absent or None take their defaults.

        :param limits: the family's settings.
        :param defaults: of the checkpoint: they take precedence over those of the class, and do not count as given.
        :raises InvalidInput: names the field, its range and what came.
        """
        given = {name: fields[name] for name in cls.fields() if fields.get(name) is not None}
        values: dict[str, Any] = {}
        for name, about in cls.fields().items():
            if name in given and (about.may_be_empty or not _is_empty(given[name])):
                values[name] = check(kind_of(cls, name), about, name, given[name], limits)
            elif cls.model_fields[name].is_required():
                raise InvalidInput(f"{name} is missing.", param=name)
        usual = {name: cls.default_of(name, limits, defaults) for name in cls.fields() if name not in values}
        return cast(Self, cls.model_construct(_fields_set=set(values), **values, **usual)).checked(limits)

    @property
    def cost_label(self) -> str:
        """Return the values that decide the time of a step or tile, for the queue estimates."""
        return ""

    def checked(self, limits: Any) -> Self:
        """Return this request after checking fields that depend on each other.

        :raises InvalidInput: they contradict each other.
        """
        return self

    def completed(self, checkpoint: Any, limits: Any) -> Request:
        """Return this request with the checkpoint's values for absent fields.

        :param checkpoint: what the family's checkpoint class has read.
        :raises TooLarge: more is asked for than the checkpoint or the installation can do.
        """
        return self

    def resolved_as(self, kind: type[Resolved], **values: Any) -> Resolved:
        """Return this request as a type with fewer optional fields, and with values for them."""
        given = self.model_fields_set | values.keys()
        return cast(Resolved, kind.model_construct(_fields_set=set(given), **{**dict(self), **values}))

    def with_values(self, **values: Any) -> Self:
        """Return this request with other values, which then count as given."""
        return self.model_copy(update=values)

    @classmethod
    def default_of(cls, name: str, limits: Any, defaults: Mapping[str, Any] | None = None) -> Any:
        """Return the default of a field: of the checkpoint, the settings or the class, and never above the limit."""
        about, value = cls.fields()[name], cls.model_fields[name].default
        if defaults is not None and name in defaults:
            value = defaults[name]
        elif about.default:
            value = getattr(limits, about.default)
        bounds = about.bounds(limits)
        whole = isinstance(value, int) and not isinstance(value, bool) and value not in about.also
        return min(value, int(bounds[1])) if whole and bounds is not None else value

    @classmethod
    def fields(cls) -> Mapping[str, Field]:
        """Return the `Field` of each field, by its name."""
        return _fields(cls)

    @classmethod
    def ranges(cls, limits: Any) -> dict[str, Bounds]:
        """The smallest and the largest value of every number, by the field's name and by its aliases."""
        found: dict[str, Bounds] = {}
        for name, about in cls.fields().items():
            bounds = about.bounds(limits)
            if bounds is not None and kind_of(cls, name) is not tuple:
                found |= dict.fromkeys((name, *about.aliases), bounds)
        return found

    @classmethod
    def aliases(cls) -> dict[str, str]:
        """Return the names of fields by their aliases."""
        return {alias: name for name, about in cls.fields().items() for alias in about.aliases}

    @classmethod
    def image_fields(cls) -> tuple[str, ...]:
        """The fields that hold an encoded image."""
        return tuple(name for name in cls.fields() if kind_of(cls, name) is bytes)

    @classmethod
    def image_list_fields(cls) -> tuple[str, ...]:
        """The fields that hold several encoded images."""
        return tuple(name for name in cls.fields() if kind_of(cls, name) is tuple)


def _is_empty(value: Any) -> bool:
    return isinstance(value, str) and value == ""


@cache
def _fields(cls: type[Request]) -> Mapping[str, Field]:
    found = {}
    for name, info in cls.model_fields.items():
        about = next((one for one in info.metadata if isinstance(one, Field)), None)
        if about is None:
            raise TypeError(f"{cls.__name__}.{name} has no Field in its annotation")
        found[name] = about
    return found


@cache
def kind_of(cls: type[Request], name: str) -> type:
    """The type of a field without None: str, int, float, bool or bytes; tuple for several images, tuple[bytes, ...]."""
    kind = cls.model_fields[name].annotation
    if isinstance(kind, UnionType) or typing.get_origin(kind) is typing.Union:
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        return str
    if kind == tuple[bytes, ...]:
        return tuple
    if kind not in (str, int, float, bool, bytes):
        raise TypeError(
            f"{cls.__name__}.{name} is a {kind}; a field of a request is str, int, float, bool, bytes or "
            "tuple[bytes, ...]"
        )
    return cast(type, kind)
