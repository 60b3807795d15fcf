"""Bodies of AUTOMATIC1111's requests, for `/openapi.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from darkroom.family import Family
from darkroom.request.edge import Text, optional
from darkroom.request.fields import ANY_SEED
from proxy.body_fields import JSON, Fields, Schema, body_of, tiny_png
from proxy.sdapi.fields import RANGES, Extras, Img2img, Txt2img

_OURS = {"batch_size": "num_images", "steps": "steps", "cfg_scale": "guidance_scale", "seed": "seed"}
_SIDES = ("width", "height")
_SMALL = {"steps": 1, "width": 64, "height": 64, "cfg_scale": 1.0, "seed": 7}


class _Options(BaseModel):
    sd_model_checkpoint: Text | None = optional("A title, a name or a hash of `GET /sdapi/v1/sd-models`.")


def web_ui_bodies(family: Family, limits: Any) -> dict[tuple[str, str], Schema]:
    """Return the bodies by method and path.

    :param family: whose ranges are shown: that of requests that name no model.
    :param limits: its settings.
    """
    ranges = {**RANGES, **_ranges(family, limits)}
    extra = {name: {"multipleOf": family.request.fields()[name].multiple} for name in _SIDES}
    prompt = {"prompt": "a red cat on grass", **_SMALL}
    bodies = {
        "txt2img": Fields(kinds=[Txt2img], ranges=ranges, extra=extra, example=prompt),
        "img2img": Fields(
            kinds=[Img2img],
            ranges=ranges,
            images=[("init_images",), ("mask",)],
            image_required=True,
            extra={**extra, "init_images": _one_image()},
            example={**prompt, "init_images": [tiny_png()], "denoising_strength": 0.5},
        ),
        "extra-single-image": Fields(
            kinds=[Extras],
            ranges=RANGES,
            images=[("image",)],
            image_required=True,
            example={"image": tiny_png(), "upscaling_resize": 2, "upscaler_1": "Lanczos"},
        ),
        "extra-batch-images": Fields(
            kinds=[Extras],
            ranges=RANGES,
            images=[("imageList",)],
            image_required=True,
            extra={"imageList": _several_images()},
            example={"imageList": [{"data": tiny_png(), "name": "a.png"}], "upscaler_1": "Lanczos"},
        ),
        "png-info": Fields(images=[("image",)], image_required=True, example={"image": tiny_png()}),
        "options": Fields(kinds=[_Options], example={"sd_model_checkpoint": ""}),
    }
    return {("post", f"/sdapi/v1/{name}"): body_of(fields, JSON) for name, fields in bodies.items()}


def _ranges(family: Family, limits: Any) -> Mapping[str, tuple[float, float]]:
    of = family.request.ranges(limits)
    found = {theirs: of[ours] for theirs, ours in _OURS.items()} | {name: of[name] for name in _SIDES}
    return {**found, "seed": (ANY_SEED, of["seed"][1])}


def _one_image() -> Schema:
    image = {"type": "string", "contentEncoding": "base64"}
    return {"type": "array", "items": image, "minItems": 1, "maxItems": 1, "description": "The image, in a list."}


def _several_images() -> Schema:
    image = {"type": "string", "contentEncoding": "base64"}
    fields = {"data": image, "name": {"type": "string"}}
    return {
        "type": "array",
        "items": {"type": "object", "properties": fields, "required": ["data"]},
        "minItems": 1,
        "description": "The images.",
    }
