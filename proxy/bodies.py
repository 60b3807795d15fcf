"""The bodies of requests for `/openapi.json`: their fields with this installation's ranges, and an example each."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from pydantic import BaseModel

from darkroom.pipelines.hidream import request as hidream
from darkroom.pipelines.hidream.settings import Settings as HidreamSettings
from darkroom.pipelines.sd15 import request as sd15
from darkroom.pipelines.sd15.networks import VAE_SCALE_FACTOR
from darkroom.pipelines.sd15.settings import Settings as Sd15Settings
from darkroom.pipelines.upscale import request as upscale
from darkroom.pipelines.upscale.settings import Settings as UpscaleSettings
from darkroom.png import encode_png
from darkroom.request.fields import ANY_SEED
from darkroom.settings import Settings
from proxy import upscaling
from proxy.generate_fields import OTHER_NAMES, PICTURE_FIELDS, GenerateFields, Ranges
from proxy.operations.hidream import HidreamFields
from proxy.operations.pictures import EnlargeFields
from proxy.surfaces import png_info, submit
from proxy.tasks.models import PRIORITIES

JSON = "application/json"
MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"

Schema = dict[str, Any]
_KEPT = ("description", "enum", "minLength", "examples")


@dataclass(frozen=True, kw_only=True)
class _Fields:
    """What a body has.

    :param kinds: types of its fields; the first one that has a field counts.
    :param ranges: of the numbers.
    :param images: names of its image, of which one may be there.
    :param image_required: one has to be there.
    :param extra: keywords for single fields.
    :param left_out: fields of the kinds that it does not have.
    :param example: values of an example.
    """

    kinds: Sequence[type[BaseModel]] = ()
    ranges: Ranges = field(default_factory=dict)
    images: Sequence[str] = ()
    image_required: bool = False
    extra: Mapping[str, Schema] = field(default_factory=dict)
    left_out: Collection[str] = ()
    example: Mapping[str, Any] = field(default_factory=dict)

    def schema(self, media: str, more: Mapping[str, Schema] | None = None, required: Iterable[str] = ()) -> Schema:
        """As a schema for a media type, with `more` fields before."""
        properties: dict[str, Schema] = dict(more or {})
        needed = list(required)
        for kind in self.kinds:
            made = kind.model_json_schema()
            needed += [name for name in made.get("required", []) if name not in needed]
            for name, described in made["properties"].items():
                if name not in properties and name not in self.left_out:
                    properties[name] = self._property(name, described, media)
        properties |= {name: _image(name, self.images, media) for name in self.images}
        found: Schema = {"type": "object", "properties": properties}
        found |= {"required": needed} if needed else {}
        return found | ({"oneOf": [{"required": [name]} for name in self.images]} if self.image_required else {})

    def _property(self, name: str, described: Schema, media: str) -> Schema:
        """A field: its type, and null in JSON where it may be left out."""
        types = [one["type"] for one in described.get("anyOf", [described])]
        found: Schema = {key: described[key] for key in _KEPT if key in described}
        if described.get("default") is not None:
            found["default"] = described["default"]
        found["type"] = types if media == JSON and len(types) > 1 else types[0]
        if "enum" in found and isinstance(found["type"], list):
            found["enum"] = [*found["enum"], None]
        bounds = self.ranges.get(OTHER_NAMES.get(name, name))
        if bounds is not None:
            found |= {"minimum": bounds[0], "maximum": bounds[1]}
        return found | self.extra.get(name, {})


def _image(name: str, names: Sequence[str], media: str) -> Schema:
    description = "The image; base64 may have a data URL around it." if name == names[0] else f"As `{names[0]}`."
    binary = {"format": "binary"} if media == MULTIPART else {"contentEncoding": "base64"}
    return {"type": "string", "description": description, **binary}


@cache
def _tiny_png() -> str:
    return base64.b64encode(encode_png(np.full((8, 8, 3), 127, np.uint8))).decode()


def _image_fields(limits: Any, multiple: int) -> dict[str, Schema]:
    side = {"multipleOf": multiple}
    text = {"maxLength": limits.max_prompt}
    return {
        "prompt": text,
        "negative_prompt": text,
        "width": side,
        "height": side,
        "seed": {"minimum": ANY_SEED},
        "size": {"pattern": r"^(auto|[1-9][0-9]{1,8}x[1-9][0-9]{1,8})$"},
    }


def _generate(settings: Settings) -> _Fields:
    limits = Sd15Settings.of(settings)
    steps = min(sd15.GenerateRequest.steps, limits.max_steps)
    return _Fields(
        kinds=[GenerateFields],
        ranges=sd15.ranges(limits),
        images=PICTURE_FIELDS,
        extra=_image_fields(limits, VAE_SCALE_FACTOR)
        | {"steps": {"default": steps}, "num_images": {"default": min(1, limits.max_images)}},
        example={"prompt": "a red cat on grass", "steps": steps, "seed": 7, "width": 64, "height": 64},
    )


def _hidream(settings: Settings) -> _Fields:
    limits = HidreamSettings.of(settings)
    return _Fields(
        kinds=[HidreamFields],
        ranges=hidream.ranges(limits),
        extra=_image_fields(limits, hidream.SIDE_MULTIPLE),
        example={"prompt": "a red cat on grass", "seed": 7},
    )


def _upscale(settings: Settings) -> _Fields:
    low, high = upscale.TILE_RANGE
    usual = UpscaleSettings.of(settings)
    ranges = {name: bounds for name, bounds in upscale.RANGES.items() if name != "tile"}
    return _Fields(
        kinds=[upscaling.UpscaleFields],
        ranges=ranges,
        images=upscaling.PICTURE_FIELDS,
        image_required=True,
        extra={
            "tile": {"anyOf": [{"minimum": low, "maximum": high}, {"enum": [0]}], "default": usual.tile},
            "tile_pad": {"default": usual.tile_pad},
        },
        example={upscaling.PICTURE_FIELDS[1]: _tiny_png(), "model": "animevideov3", "scale": 2},
    )


def _enlarged(fields: _Fields) -> _Fields:
    """With the fields that tasks have besides."""
    return _Fields(
        kinds=[*fields.kinds, EnlargeFields],
        ranges={**fields.ranges, "enlarge": upscale.SCALE_RANGE},
        images=fields.images,
        extra=fields.extra,
        example=fields.example,
    )


def _operations(settings: Settings) -> dict[str, _Fields]:
    return {
        "hidream": _enlarged(_hidream(settings)),
        "generate": _enlarged(_generate(settings)),
        "upscale": _upscale(settings),
    }


def _submit(settings: Settings, operation: str) -> _Fields:
    of = _hidream(settings) if operation == "hidream" else _generate(settings)
    most = int(of.ranges["steps"][1])
    default = {"num_inference_steps": {"default": submit.default_steps(most)}}
    return _Fields(
        kinds=[submit.ImageGenerationRequest, *of.kinds],
        ranges=of.ranges,
        images=of.images,
        extra={**of.extra, **default, "prompt": {**of.extra["prompt"], "minLength": 1}},
        left_out=submit.ELSEWHERE.keys() | OTHER_NAMES.values(),
        example={
            "prompt": "a red cat on grass",
            "resolution": "512x512",
            "num_inference_steps": submit.default_steps(most),
        },
    )


def request_bodies(settings: Settings, submits: str, schemas: dict[str, Any]) -> dict[tuple[str, str], Schema]:
    """The body of every operation that has one, by method and path.

    :param submits: the operation of `POST /submit`.
    :param schemas: of the document; those that several bodies share are added.
    """
    one, batch = _submit(settings, submits), _batch(settings)
    schemas["ImageGenerationRequest"] = one.schema(JSON)
    several: Schema = {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/ImageGenerationRequest"}}
    png = _Fields(images=png_info.PICTURE_FIELDS, image_required=True, example={"image": _tiny_png()})
    return {
        ("post", "/generate"): _body(_generate(settings), JSON, MULTIPART, URLENCODED),
        ("post", "/api/upscale"): _body(_upscale(settings), JSON, MULTIPART, URLENCODED),
        ("post", "/api/upscale-batch"): {"required": True, "content": {MULTIPART: {"schema": batch}}},
        ("post", "/png-info"): _body(png, JSON, MULTIPART, URLENCODED),
        ("post", "/tasks"): _tasks(settings, schemas),
        ("post", "/submit"): _body(one, JSON),
        ("post", "/batch_submit"): {
            "required": True,
            "content": {
                JSON: {
                    "schema": {"type": "object", "required": ["requests"], "properties": {"requests": several}},
                    "examples": {"several": {"value": {"requests": [dict(one.example), dict(one.example)]}}},
                }
            },
        },
    }


def _body(fields: _Fields, *media: str) -> Schema:
    return {
        "required": True,
        "content": {
            one: {"schema": fields.schema(one)}
            | ({"examples": {"usual": {"value": dict(fields.example)}}} if _has_example(fields, one) else {})
            for one in media
        },
    }


def _has_example(fields: _Fields, media: str) -> bool:
    """A file in a form cannot be written down."""
    return media != MULTIPART or not fields.image_required


def _batch(settings: Settings) -> Schema:
    """Files, and the other fields of an upscale."""
    of = _upscale(settings)
    made = _Fields(kinds=of.kinds, ranges=of.ranges, extra=of.extra).schema(MULTIPART, required=["files"])
    files = {"type": "string", "format": "binary"}
    made["properties"]["files"] = {
        "type": "array",
        "description": "The images.",
        "items": files,
        "minItems": 1,
        "maxItems": settings.max_batch_files,
    }
    return made


def _tasks(settings: Settings, schemas: dict[str, Any]) -> Schema:
    """One schema per operation."""
    content: dict[str, Any] = {}
    operations = _operations(settings)
    for media, suffix in ((JSON, "Task"), (MULTIPART, "TaskForm"), (URLENCODED, "TaskText")):
        names = {}
        for operation, fields in operations.items():
            common: dict[str, Schema] = {
                "operation": {"type": "string", "enum": [operation]},
                "priority": {"type": "string", "enum": list(PRIORITIES), "default": "normal"},
            }
            names[operation] = f"{operation.capitalize()}{suffix}"
            schemas[names[operation]] = fields.schema(media, common, ["operation"])
        refs = {operation: f"#/components/schemas/{name}" for operation, name in names.items()}
        content[media] = {
            "schema": {
                "oneOf": [{"$ref": ref} for ref in refs.values()],
                "discriminator": {"propertyName": "operation", "mapping": refs},
            },
            "examples": {
                operation: {"value": {"operation": operation, **fields.example}}
                for operation, fields in operations.items()
                if _has_example(fields, media)
            },
        }
    return {"required": True, "content": content}
