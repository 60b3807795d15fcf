"""The fields of a request body as JSON schemas, with the ranges of this installation."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from pydantic import BaseModel

from darkroom.family import Family
from darkroom.png import encode_png
from darkroom.request.edge import edge_model
from darkroom.request.field import resolved
from darkroom.request.fields import Bounds
from darkroom.request.request import Request, kind_of
from proxy.operations.taking import image_names

JSON = "application/json"
MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"

Schema = dict[str, Any]
_KEPT = ("description", "enum", "minLength", "pattern", "examples")


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The fields of a body.

    :param kinds: types of its fields; the first one that has a field counts.
    :param ranges: of the numbers, by name.
    :param images: for each image field its names, of which one may be used.
    :param image_required: whether the first image is required.
    :param image_lists: how many images the fields hold that hold several.
    :param one_of: names of image fields of which exactly one is required.
    :param extra: schema keywords for single fields.
    :param required: fields that are required even if their type has a default.
    :param left_out: fields of the kinds that the body does not have.
    :param example: values of an example.
    """

    kinds: Sequence[type[BaseModel]] = ()
    ranges: Mapping[str, Bounds] = field(default_factory=dict)
    images: Sequence[Sequence[str]] = ()
    image_required: bool = False
    image_lists: Mapping[str, Bounds] = field(default_factory=dict)
    one_of: Sequence[str] = ()
    extra: Mapping[str, Schema] = field(default_factory=dict)
    required: Sequence[str] = ()
    left_out: Collection[str] = ()
    example: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, family: Family, limits: Any, defaults: Mapping[str, Any] | None = None) -> Fields:
        """Return the fields of a request to a family.

        :param limits: the family's settings.
        :param defaults: of a checkpoint.
        """
        return cls.of_request(family.request, limits, defaults, example=family.example)

    @classmethod
    def of_request(
        cls,
        kind: type[Request],
        limits: Any,
        defaults: Mapping[str, Any] | None = None,
        *,
        example: Mapping[str, Any],
    ) -> Fields:
        """Return the fields of a type of request; `limits` and `defaults` as of `of`."""
        images = {name: kind.fields()[name] for name in kind.image_fields()}
        lists = {name: kind.fields()[name] for name in kind.image_list_fields()}
        alone = [about.aliases for about in lists.values() if about.aliases]
        return cls(
            kinds=[edge_model(kind)],
            ranges={name: bounds for name, bounds in kind.ranges(limits).items() if not _also(kind, name)},
            images=[*alone, *(image_names(name, about) for name, about in images.items())],
            image_required=any(about.needed for about in images.values()),
            image_lists={name: bounds for name, about in lists.items() if (bounds := about.bounds(limits))},
            one_of=[one for name, about in lists.items() for one in (*about.aliases, name)],
            extra=_extra(kind, limits, defaults),
            example=_within_limits(kind, example, limits),
        )

    def schema(self, media: str, more: Mapping[str, Schema] | None = None, required: Iterable[str] = ()) -> Schema:
        """Return the schema for a media type, with the `more` fields first."""
        properties: dict[str, Schema] = dict(more or {})
        needed = [*required, *self.required]
        for kind in self.kinds:
            made = kind.model_json_schema()
            needed += [name for name in made.get("required", []) if name not in needed]
            for name, described in made["properties"].items():
                if name not in properties and name not in self.left_out:
                    properties[name] = self._property(name, described, media)
        for names in self.images:
            properties |= {name: _image(name, names, media) | self.extra.get(name, {}) for name in names}
        for name, bounds in self.image_lists.items():
            properties[name] = _image_list(bounds, media) | self.extra.get(name, {})
        found: Schema = {"type": "object", "properties": properties}
        found |= {"required": needed} if needed else {}
        return found | ({"oneOf": [{"required": [name]} for name in self.needed_images]} if self.needed_images else {})

    @property
    def needed_images(self) -> Sequence[str]:
        """The names of image fields of which exactly one is required."""
        return self.one_of or (self.images[0] if self.image_required else ())

    def _property(self, name: str, described: Schema, media: str) -> Schema:
        """Return the schema of a field: its type, and null in JSON if it is optional."""
        types = [one["type"] for one in described.get("anyOf", [described])]
        found: Schema = {key: described[key] for key in _KEPT if key in described}
        if described.get("default") is not None:
            found["default"] = described["default"]
        found["type"] = types if media == JSON and len(types) > 1 else types[0]
        if "enum" in found and isinstance(found["type"], list):
            found["enum"] = [*found["enum"], None]
        bounds = self.ranges.get(name)
        if bounds is not None:
            found |= {"minimum": bounds[0], "maximum": bounds[1]}
        return found | self.extra.get(name, {})


def _image(name: str, names: Sequence[str], media: str) -> Schema:
    description = "The image; base64 may have a data URL around it." if name == names[0] else f"As `{names[0]}`."
    binary = {"format": "binary"} if media == MULTIPART else {"contentEncoding": "base64"}
    return {"type": "string", "description": description, **binary}


def _image_list(bounds: Bounds, media: str) -> Schema:
    binary = {"format": "binary"} if media == MULTIPART else {"contentEncoding": "base64"}
    return {
        "type": "array",
        "items": {"type": "string", **binary},
        "minItems": int(bounds[0]),
        "maxItems": int(bounds[1]),
    }


@cache
def tiny_png() -> str:
    return base64.b64encode(encode_png(np.full((8, 8, 3), 127, np.uint8))).decode()


def _also(kind: type[Request], name: str) -> Mapping[int, str]:
    return kind.fields()[kind.aliases().get(name, name)].also


def _within_limits(kind: type[Request], example: Mapping[str, Any], limits: Any) -> dict[str, Any]:
    """Limit the numbers of an example to what this installation allows."""
    ranges = kind.ranges(limits)
    return {name: min(value, int(ranges[name][1])) if name in ranges else value for name, value in example.items()}


def _extra(kind: type[Request], limits: Any, defaults: Mapping[str, Any] | None) -> dict[str, Schema]:
    """Return schema keywords of single fields for this installation, besides type and range."""
    found: dict[str, Schema] = {}
    for name, about in kind.fields().items():
        said: Schema = {}
        if about.multiple > 1:
            said["multipleOf"] = about.multiple
        if (longest := resolved(about.longest, limits)) is not None:
            said["maxLength"] = longest
        usual, bounds = kind.default_of(name, limits, defaults), about.bounds(limits)
        hidden = about.from_checkpoint and not defaults
        if isinstance(usual, int | float | str) and usual not in about.also and not hidden:
            said["default"] = usual
        if about.also and bounds is not None:
            said |= _range_and(bounds, about.also)
        if kind_of(kind, name) in (bytes, tuple):
            said["description"] = f"{about.help} Base64 may have a data URL around it."
        found[about.called or name] = said
    return found


def _range_and(bounds: Bounds, also: Mapping[int, str]) -> Schema:
    """A range, and numbers outside of it: those right below it widen it, others stand beside it."""
    low, high = bounds
    if all(low - 1 == other for other in also):
        return {"minimum": min(also), "maximum": high}
    return {"anyOf": [{"minimum": low, "maximum": high}, {"enum": list(also)}]}


def body_of(fields: Fields, *media: str) -> Schema:
    return {
        "required": True,
        "content": {
            one: {"schema": fields.schema(one)}
            | ({"examples": {"usual": {"value": dict(fields.example)}}} if has_example(fields, one) else {})
            for one in media
        },
    }


def has_example(fields: Fields, media: str) -> bool:
    """Whether an example can be written: a file in a form cannot, and a LoRA fits only some models."""
    return bool(fields.example) and (media != MULTIPART or not fields.needed_images)
