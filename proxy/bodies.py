"""Describes request bodies for `/openapi.json`: fields with this installation's ranges, and an example each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from pydantic import BaseModel
from pydantic import Field as PydanticField
from safetensors.numpy import save

from darkroom.family import Family, Operation
from darkroom.registry import families
from darkroom.request.edge import Text, optional
from darkroom.request.training import TrainingOptions
from darkroom.serving.networks import split_label
from darkroom.settings import Settings
from proxy.body_fields import JSON, MULTIPART, URLENCODED, Fields, Schema, body_of, has_example, tiny_png
from proxy.edit_bodies import edit_bodies, in_modes
from proxy.models import ServedModel, of_operation
from proxy.openai.bodies import openai_bodies
from proxy.operations import OPERATIONS
from proxy.operations.enlarging import enlarge_ranges
from proxy.operations.generate import Generate
from proxy.operations.task_fields import task_fields
from proxy.operations.train import Train
from proxy.sdapi.bodies import web_ui_bodies
from proxy.sessions.fields import SessionFields
from proxy.surfaces import admin_keys, lora_sessions, loras, png_info, submit, txt2img
from proxy.tasks.models import PRIORITIES

_KEYS = Fields(kinds=[admin_keys.KeyFields], ranges=admin_keys.RANGES, example=admin_keys.EXAMPLE)


def _request_fields(settings: Settings, family: Family) -> Fields:
    made = Fields.of(family, settings.family(family.name))
    if not made.needed_images:
        return made
    name = made.one_of[0] if made.one_of else made.images[0][1]
    return replace(made, example={name: tiny_png(), **made.example})


def _enlarged(fields: Fields) -> Fields:
    """Add the fields that only tasks have."""
    ranges = {**fields.ranges, **enlarge_ranges()}
    return replace(fields, kinds=[*fields.kinds, task_fields()], ranges=ranges)


def _operations(settings: Settings, models: Sequence[str]) -> dict[str, Fields]:
    """The fields by the name of the operation: those of the default family, and under its own name of each other."""
    found: dict[str, Fields] = {}
    usual = {one.pipeline.name: name for name, one in OPERATIONS.items() if one.pipeline}
    for family in families().values():
        fields = _request_fields(settings, family)
        name = usual.get(family.pipeline.name, family.pipeline.name)
        fields = in_modes(fields) if family.operation == "edit" else fields
        fields = _enlarged(fields) if family.operation in ("generate", "edit") else fields
        mine = [one for one in models if split_label(one)[0] == family.pipeline.name]
        several = name == family.operation and name in ("generate", "edit")
        found[name] = _with_model(fields, mine) if several else fields
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


def _edit(settings: Settings, models: Sequence[str]) -> Fields:
    family = of_operation("edit")[0]
    mine = [name for name in models if split_label(name)[0] == family.pipeline.name]
    return _with_model(_request_fields(settings, family), mine)


def _openai(settings: Settings, models: Sequence[str]) -> dict[tuple[str, str], Schema]:
    """The bodies of OpenAI's images API, with the fields of the default models."""

    def named(operation: Operation) -> list[str]:
        families = {family.pipeline.name for family in of_operation(operation)}
        return [name for name in models if split_label(name)[0] in families]

    def of(operation: Operation, names: Sequence[str]) -> Fields:
        plain = split_label(names[0])[0] if names else ""
        found = [family for family in of_operation(operation) if family.pipeline.name == plain]
        return _request_fields(settings, (found or of_operation(operation))[0])

    generators, editors = named("generate"), named("edit")
    edits = of("edit", editors) if editors else None
    return openai_bodies(settings, of("generate", generators), edits, generators, editors)


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
    png = Fields(images=[png_info.PICTURE_FIELDS], image_required=True, example={"image": tiny_png()})
    return {
        ("post", "/generate"): _one_of(_generate(settings, models), JSON, MULTIPART, URLENCODED),
        ("post", "/api/upscale"): body_of(_upscale(settings), JSON, MULTIPART, URLENCODED),
        ("post", "/api/upscale-batch"): {"required": True, "content": {MULTIPART: {"schema": batch}}},
        ("post", "/png-info"): body_of(png, JSON, MULTIPART, URLENCODED),
        **edit_bodies(_edit(settings, models)),
        **_openai(settings, models),
        **_sessions(),
        **web_ui_bodies(of_operation("generate")[0], settings.family(of_operation("generate")[0].name)),
        ("post", "/loras"): body_of(
            Fields(
                kinds=[loras.LoraUpload],
                images=(loras.FILE,),
                image_required=True,
            ),
            JSON,
            MULTIPART,
        ),
        ("post", "/tasks"): _tasks(settings, models, schemas),
        ("post", "/admin/keys"): body_of(_KEYS, JSON),
        ("post", "/submit"): body_of(one, JSON),
        ("post", "/txt2img"): body_of(_txt2img(settings, draws, models), JSON, MULTIPART, URLENCODED),
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
            example={**a_session, image: tiny_png(), "prompt": "a red apple on a table"},
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
        ("post", path): body_of(replace(fields, extra={**fields.extra, **either}), JSON)
        for path, fields in bodies.items()
    }


def _training() -> Fields:
    """The fields of a training."""
    of = Fields.of_request(TrainingOptions, None, example={"session_id": "1", "steps": 100, "rank": 8})
    return replace(of, kinds=[SessionFields, *of.kinds])


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
        return body_of(several[0], *media)
    content: dict[str, Any] = {}
    for one in media:
        examples = {fields.example.get("model", "usual"): {"value": dict(fields.example)} for fields in several}
        content[one] = {"schema": {"oneOf": [fields.schema(one) for fields in several]}, "examples": examples}
    return {"required": True, "content": content}


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
                if has_example(fields, media)
            },
        }
    return {"required": True, "content": content}
