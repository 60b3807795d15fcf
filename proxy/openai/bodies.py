"""The request bodies and errors of OpenAI's images API, for `/openapi.json`; see `proxy.bodies`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from darkroom.request.edge import Text, optional
from darkroom.settings import Settings
from proxy.body_fields import JSON, MULTIPART, Fields, Schema, body_of, tiny_png
from proxy.openai.calls import IMAGE_NAMES, MOST_INPUTS, VARIATION_STRENGTH
from proxy.openai.fields import OF_OTHERS, RANGES, ImagesFields, StreamFields
from proxy.openai.names import name_pattern
from proxy.operations.edit import IMAGES

_IMAGE, _SEVERAL = IMAGE_NAMES[:2]
_PLACES = ("init_image", "init_images", IMAGES, "image", "image_base64", "reference_image")
"""Names of images of the models that these endpoints have under another name."""


class _ModelField(BaseModel):
    model: Text | None = optional("A name of `GET /v1/models`, or one that MODEL_ALIASES has.")


def openai_bodies(
    settings: Settings, generates: Fields, edits: Fields | None, generators: Sequence[str], editors: Sequence[str]
) -> dict[tuple[str, str], Schema]:
    """Return the body of each endpoint, by method and path.

    :param generates: the fields of the default model that generates.
    :param edits: those of the default model for editing; None where there is none.
    :param generators: the names of the installed models that generate, and `editors` of those for editing.
    """
    pattern = {"model": {"pattern": name_pattern(settings, generators)}}
    any_pattern = {"model": {"pattern": name_pattern(settings, [*editors, *generators])}}
    generation = _fields(generates, StreamFields, pattern)
    edit = _fields(edits or generates, StreamFields, any_pattern)
    bounds = (1.0, edits.image_lists.get(IMAGES, (1, 1))[1] if edits is not None else 1.0)
    edit = _with_image(edit, min(bounds[1], MOST_INPUTS))
    weak: dict[str, Schema] = {**pattern, "strength": {"default": VARIATION_STRENGTH}}
    variation = replace(_with_image(_fields(generates, ImagesFields, weak), 1), example={_IMAGE: tiny_png()})
    variation = replace(variation, kinds=[ImagesFields, _ModelField, _OptionalPrompt, *variation.kinds[2:]])
    return {
        ("post", "/v1/images/generations"): body_of(generation, JSON, MULTIPART),
        ("post", "/v1/images/edits"): body_of(edit, JSON, MULTIPART),
        ("post", "/v1/images/variations"): _with_optional_prompt(body_of(variation, JSON, MULTIPART)),
    }


def _with_optional_prompt(body: Schema) -> Schema:
    """The models require a prompt, and this endpoint has an empty one for them."""
    for content in body["content"].values():
        del content["schema"]["required"]
    return body


class _OptionalPrompt(BaseModel):
    prompt: Text | None = optional("Empty by default.")


def _fields(of: Fields, kind: type[ImagesFields], extra: dict[str, Schema]) -> Fields:
    """The fields of this API and those of a model."""
    own = {name: said for name, said in of.extra.items() if name not in kind.model_fields}
    return replace(
        of,
        kinds=[kind, _ModelField, *of.kinds],
        ranges={**{name: bounds for name, bounds in of.ranges.items() if name not in kind.model_fields}, **RANGES},
        extra={**own, **extra},
        left_out=OF_OTHERS - kind.model_fields.keys(),
        example={"prompt": of.example.get("prompt", "a cat"), "n": 1, "size": "256x256"},
    )


def _with_image(of: Fields, most: float) -> Fields:
    """Add the images to be changed."""
    others = [names for names in of.images if not set(names) & set(_PLACES)]
    lists: dict[str, tuple[float, float]] = {_SEVERAL: (1, most)} if most > 1 else {}
    example = {_IMAGE: tiny_png(), "prompt": of.example["prompt"]}
    alone = [_IMAGE, *([_SEVERAL] if lists else [])]
    return replace(
        of, images=[(_IMAGE,), *others], image_required=True, image_lists=lists, one_of=alone, example=example
    )


def bad_input_as_400(responses: dict[str, Any]) -> None:
    """Merge the refusal of bad input, which is 400 in OpenAI's API, into that of broken requests."""
    bad = responses.pop("422", None)
    if bad is not None:
        found = responses.setdefault("400", bad)
        if found is not bad:
            found["description"] = f"{bad['description']} {found['description']}"
