"""Describes request bodies for `/openapi.json`: fields with this installation's ranges, and an example each."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from pydantic import BaseModel
from pydantic import Field as PydanticField
from safetensors.numpy import save

from darkroom.family import Family
from darkroom.png import encode_png
from darkroom.registry import families
from darkroom.request.edge import Text, edge_model, optional
from darkroom.request.field import resolved
from darkroom.request.fields import Bounds
from darkroom.request.request import Request, kind_of
from darkroom.request.training import TrainingOptions
from darkroom.serving.networks import split_label
from darkroom.settings import Settings
from proxy.models import ServedModel, of_operation
from proxy.operations import OPERATIONS
from proxy.operations.enlarging import enlarge_fields, enlarge_ranges
from proxy.operations.generate import Generate
from proxy.operations.taking import image_names
from proxy.operations.train import Train
from proxy.sessions.fields import SessionFields
from proxy.surfaces import lora_sessions, loras, png_info, submit, txt2img
from proxy.tasks.models import PRIORITIES

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
    :param extra: schema keywords for single fields.
    :param required: fields that are required even if their type has a default.
    :param left_out: fields of the kinds that the body does not have.
    :param example: values of an example.
    """

    kinds: Sequence[type[BaseModel]] = ()
    ranges: Mapping[str, Bounds] = field(default_factory=dict)
    images: Sequence[Sequence[str]] = ()
    image_required: bool = False
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
        kind = family.request
        images = {name: kind.fields()[name] for name in kind.images()}
        return cls(
            kinds=[edge_model(kind)],
            ranges={name: bounds for name, bounds in kind.ranges(limits).items() if not _also(kind, name)},
            images=[image_names(name, about) for name, about in images.items()],
            image_required=any(about.needed for about in images.values()),
            extra=_extra(kind, limits, defaults),
            example=_within_limits(kind, family.example, limits),
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
        found: Schema = {"type": "object", "properties": properties}
        found |= {"required": needed} if needed else {}
        return found | ({"oneOf": [{"required": [name]} for name in self.images[0]]} if self.image_required else {})

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


@cache
def _tiny_png() -> str:
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
        if kind_of(kind, name) is bytes:
            said["description"] = f"{about.help} Base64 may have a data URL around it."
        found[about.called or name] = said
    return found


def _range_and(bounds: Bounds, also: Mapping[int, str]) -> Schema:
    """A range, and numbers outside of it: those right below it widen it, others stand beside it."""
    low, high = bounds
    if all(low - 1 == other for other in also):
        return {"minimum": min(also), "maximum": high}
    return {"anyOf": [{"minimum": low, "maximum": high}, {"enum": list(also)}]}


def _request_fields(settings: Settings, family: Family) -> Fields:
    made = Fields.of(family, settings.family(family.name))
    if not made.image_required:
        return made
    return replace(made, example={made.images[0][1]: _tiny_png(), **made.example})


def _enlarged(fields: Fields) -> Fields:
    """Add the fields that only tasks have."""
    ranges = {**fields.ranges, **enlarge_ranges()}
    return replace(fields, kinds=[*fields.kinds, enlarge_fields()], ranges=ranges)


def _operations(settings: Settings, models: Sequence[str]) -> dict[str, Fields]:
    """The fields by the name of the operation: those of the default family, and under its own name of each other."""
    found: dict[str, Fields] = {}
    usual = {one.pipeline.name: name for name, one in OPERATIONS.items() if one.pipeline}
    for family in families().values():
        fields = _request_fields(settings, family)
        name = usual.get(family.pipeline.name, family.pipeline.name)
        fields = _enlarged(fields) if family.operation == "generate" else fields
        mine = [one for one in models if split_label(one)[0] == family.pipeline.name]
        found[name] = _with_model(fields, mine) if name == family.operation == "generate" else fields
    return {**found, Train.name: _training()}


def _generate(settings: Settings, models: Sequence[str]) -> list[Fields]:
    """The fields of each family that is there; a request to another one than the first has to name its model."""
    found: list[Fields] = []
    for family in of_operation("generate"):
        mine = [name for name in models if split_label(name)[0] == family.pipeline.name]
        if mine or not found:
            found.append(_with_model(_request_fields(settings, family), mine, required=bool(found)))
    return found


class _ModelField(BaseModel):
    model: Text | None = optional("A name of `GET /models`; fields and ranges are then those of that model.")


def _with_model(fields: Fields, models: Sequence[str], *, required: bool = False) -> Fields:
    """Add the field that names the model."""
    allowed = {"type": "string", "enum": list(models)} if required else {"enum": [*models, None]}
    found = replace(fields, kinds=[*fields.kinds, _ModelField], extra={**fields.extra, "model": allowed})
    return replace(found, required=["model"], example={"model": models[0], **fields.example}) if required else found


def _upscale(settings: Settings) -> Fields:
    return _request_fields(settings, of_operation("upscale")[0])


def _submit(settings: Settings, operation: Generate, models: Sequence[str]) -> Fields:
    mine = [one for one in models if split_label(one)[0] == operation.model.family.pipeline.name]
    of = _with_model(_request_fields(settings, operation.model.family), mine)
    most = int(of.ranges["steps"][1])
    default = {"num_inference_steps": {"default": submit.default_steps(most)}}
    return Fields(
        kinds=[submit.ImageGenerationRequest, *of.kinds],
        ranges=of.ranges,
        images=of.images,
        extra={**of.extra, **default, "prompt": {**of.extra["prompt"], "minLength": 1}},
        left_out=submit.ELSEWHERE.keys() | submit.BY_CONTRACT,
        example={
            "prompt": "a red cat on grass",
            "resolution": "512x512",
            "num_inference_steps": submit.default_steps(most),
        },
    )


def _txt2img(settings: Settings, model: ServedModel, models: Sequence[str]) -> Fields:
    mine = [one for one in models if split_label(one)[0] == model.family.pipeline.name]
    of = _with_model(_request_fields(settings, model.family), mine)
    return replace(of, kinds=[*of.kinds, txt2img.LoraFields], left_out=txt2img.ELSEWHERE)


def request_bodies(
    settings: Settings, submits: Generate, draws: ServedModel, models: Sequence[str], schemas: dict[str, Any]
) -> dict[tuple[str, str], Schema]:
    """Return the body of every endpoint that has one, by method and path.

    :param submits: the operation of `POST /submit`.
    :param draws: the default model of `POST /txt2img`.
    :param models: the names that requests for images may have as their `model`.
    :param schemas: of the document; those that several bodies share are added.
    """
    one, batch = _submit(settings, submits, models), _batch(settings)
    schemas["ImageGenerationRequest"] = one.schema(JSON)
    several: Schema = {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/ImageGenerationRequest"}}
    png = Fields(images=[png_info.PICTURE_FIELDS], image_required=True, example={"image": _tiny_png()})
    return {
        ("post", "/generate"): _one_of(_generate(settings, models), JSON, MULTIPART, URLENCODED),
        ("post", "/api/upscale"): _body(_upscale(settings), JSON, MULTIPART, URLENCODED),
        ("post", "/api/upscale-batch"): {"required": True, "content": {MULTIPART: {"schema": batch}}},
        ("post", "/png-info"): _body(png, JSON, MULTIPART, URLENCODED),
        **_sessions(),
        ("post", "/loras"): _body(
            Fields(
                kinds=[loras.LoraUpload],
                images=(loras.FILE,),
                image_required=True,
            ),
            JSON,
            MULTIPART,
        ),
        ("post", "/tasks"): _tasks(settings, models, schemas),
        ("post", "/submit"): _body(one, JSON),
        ("post", "/txt2img"): _body(_txt2img(settings, draws, models), JSON, MULTIPART, URLENCODED),
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


def _sessions() -> dict[tuple[str, str], Schema]:
    """The bodies of the session endpoints, which are JSON only."""
    image, lora = lora_sessions.IMAGE_FIELD, lora_sessions.LORA_FIELD
    a_session = {"session_id": "1"}
    bodies = {
        "/post_session_image": Fields(
            kinds=[lora_sessions.ImageFields],
            images=[(image,)],
            image_required=True,
            example={**a_session, image: _tiny_png(), "prompt": "a red apple on a table"},
        ),
        "/upload_lora": Fields(
            kinds=[lora_sessions.LoraUpload, _LoraFile], example={**a_session, lora: _tiny_safetensors()}
        ),
        "/get_lora": Fields(kinds=[lora_sessions.LoraDownload], ranges=lora_sessions.ITERATIONS, example=a_session),
        "/delete_session": Fields(kinds=[SessionFields], example=a_session),
        "/train_lora": _training(),
        "/train_status": Fields(kinds=[SessionFields], example=a_session),
    }
    either = {"session_id": {"type": ["string", "integer"]}}
    return {
        ("post", path): _body(replace(fields, extra={**fields.extra, **either}), JSON)
        for path, fields in bodies.items()
    }


def _training() -> Fields:
    """The fields of a training."""
    kind = TrainingOptions
    return Fields(
        kinds=[SessionFields, edge_model(kind)],
        ranges={name: bounds for name, bounds in kind.ranges(None).items() if not _also(kind, name)},
        extra=_extra(kind, None, None),
        example={"session_id": "1", "steps": 100, "rank": 8},
    )


class _LoraFile(BaseModel):
    """A LoRA file in a body of JSON."""

    lora_base64: Text = PydanticField(description="A safetensors file in base64.", min_length=1)


@cache
def _tiny_safetensors() -> str:
    """A LoRA of rank 1 for one layer, by the names of diffusers."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    shapes = {f"{layer}.lora_A.weight": (1, 4), f"{layer}.lora_B.weight": (4, 1)}
    return base64.b64encode(save({name: np.ones(shape, np.float32) for name, shape in shapes.items()})).decode()


def _one_of(several: Sequence[Fields], *media: str) -> Schema:
    """Return a body that has one of several schemas."""
    if len(several) == 1:
        return _body(several[0], *media)
    content: dict[str, Any] = {}
    for one in media:
        examples = {fields.example.get("model", "usual"): {"value": dict(fields.example)} for fields in several}
        content[one] = {"schema": {"oneOf": [fields.schema(one) for fields in several]}, "examples": examples}
    return {"required": True, "content": content}


def _body(fields: Fields, *media: str) -> Schema:
    return {
        "required": True,
        "content": {
            one: {"schema": fields.schema(one)}
            | ({"examples": {"usual": {"value": dict(fields.example)}}} if _has_example(fields, one) else {})
            for one in media
        },
    }


def _has_example(fields: Fields, media: str) -> bool:
    """Whether an example can be written: a file in a form cannot, and a LoRA fits only some models."""
    return bool(fields.example) and (media != MULTIPART or not fields.image_required)


def _batch(settings: Settings) -> Schema:
    """Return the schema of a batch: files, and the fields of an upscale."""
    of = _upscale(settings)
    made = Fields(kinds=of.kinds, ranges=of.ranges, extra=of.extra).schema(MULTIPART, required=["files"])
    files = {"type": "string", "format": "binary"}
    made["properties"]["files"] = {
        "type": "array",
        "description": "The images.",
        "items": files,
        "minItems": 1,
        "maxItems": settings.max_batch_files,
    }
    return made


def _tasks(settings: Settings, models: Sequence[str], schemas: dict[str, Any]) -> Schema:
    """Return the body of a task: one schema per operation."""
    content: dict[str, Any] = {}
    operations = _operations(settings, models)
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
