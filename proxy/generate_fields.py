"""What `POST /generate` takes, and the tasks of other families: the types of the fields and their documentation.

Ranges are checked by each family's `GenerateRequest.parse` alone; the documentation shows the same constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from darkroom.errors import InvalidInput
from darkroom.fields import QUALITY_RANGE, SEED_RANGE, PictureRequest
from darkroom.pipelines.sd15 import request as sd15
from darkroom.pipelines.sd15.controls import ControlOptions, control_names
from darkroom.pipelines.sd15.networks import VAE_SCALE_FACTOR
from darkroom.pipelines.sd15.request import ControlRequest, GenerateRequest, Limits
from darkroom.schedulers import SCHEDULERS

PICTURE_FIELDS = ("control_image", "image", "image_base64", "reference_image")
"""Names of the reference picture; the first one is ours."""
TEXT_FIELDS = ("prompt", "negative_prompt")
"""The fields that may be empty; in forms, others that are empty were left empty."""

_OTHER_NAMES = {"num_inference_steps": "steps", "num_images_per_prompt": "num_images"}


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):  # which pydantic would take for 0 or 1
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


def _whole_characters(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can have half a surrogate pair, which is no character and not UTF-8
        raise PydanticCustomError("string_unicode", "Input should be a valid string") from None
    return value


Text = Annotated[str, AfterValidator(_whole_characters)]
Whole = Annotated[int, BeforeValidator(_no_truth)]
Number = Annotated[float, BeforeValidator(_no_truth)]


def _field(help: str, default: Any = None, bounds: tuple[float, float] | None = None, **more: Any) -> Any:
    """An optional field, with the default and the range that the documentation shows."""
    extra: dict[str, Any] = {} if default is None else {"default": default}
    if bounds is not None:
        extra |= {"minimum": bounds[0], "maximum": bounds[1]}
    return Field(None, description=help, json_schema_extra=extra | more)


_SIDE = f"A multiple of {VAE_SCALE_FACTOR}; by default the side that the checkpoint was trained at."
_AREA = f"Width times height may be up to GENERATE_MAX_PIXELS, by default {Limits.max_pixels:,}."


class PictureFields(BaseModel):
    """What every family takes that makes pictures of a text."""

    prompt: Text
    negative_prompt: Text | None = _field("What not to show.", PictureRequest.negative_prompt)
    steps: Whole | None = None
    guidance_scale: Number | None = None
    seed: Whole | None = _field("Of the first picture; the k-th has seed + k. Drawn if absent.", None, SEED_RANGE)
    randomize_seed: bool | None = _field("Draw a seed, whatever `seed` says.", False)
    width: Whole | None = None
    height: Whole | None = None
    num_images: Whole | None = None
    scheduler: Text | None = None
    preview_every: Whole | None = _field(
        "Steps between previews in a stream of events; 0 for none.", PictureRequest.preview_every, minimum=0
    )
    format: Literal["png", "webp", "jpeg"] | None = _field("Of the pictures.", PictureRequest.format)
    quality: Whole | None = _field("Of WebP and JPEG.", PictureRequest.quality, QUALITY_RANGE)
    num_inference_steps: Whole | None = _field("Another name of `steps`.")
    num_images_per_prompt: Whole | None = _field("Another name of `num_images`.")

    def named(self) -> dict[str, Any]:
        """The fields by our names, absent ones as None.

        :raises InvalidInput: two names of one field, with different values.
        """
        values = self.model_dump()
        for other, name in _OTHER_NAMES.items():
            value = values.pop(other)
            if value is not None and values[name] not in (None, value):
                raise InvalidInput(f"{name} and {other} are one field; got {values[name]} and {value}.", param=other)
            values[name] = values[name] if value is None else value
        if values.pop("randomize_seed"):
            values["seed"] = None
        return values


class GenerateFields(PictureFields):
    """Text to image with SD 1.5."""

    prompt: Text = Field(description="`(word:1.3)` weighs a word. Of any length up to GENERATE_MAX_PROMPT.")
    steps: Whole | None = _field(
        f"Up to GENERATE_MAX_STEPS, by default {Limits.max_steps}.", GenerateRequest.steps, minimum=1
    )
    guidance_scale: Number | None = _field(
        "1 and below: no guidance, in half the time. By default what the checkpoint asks for, else 7.5.",
        None,
        sd15.GUIDANCE_RANGE,
    )
    width: Whole | None = _field(f"{_SIDE} {_AREA}", minimum=sd15.SIDE_MINIMUM)
    height: Whole | None = _field(_SIDE, minimum=sd15.SIDE_MINIMUM)
    num_images: Whole | None = _field(
        f"Up to GENERATE_MAX_IMAGES, by default {Limits.max_images}.", GenerateRequest.num_images, minimum=1
    )
    scheduler: Text | None = _field("By default the checkpoint's own.", examples=list(SCHEDULERS))
    control_type: Text | None = _field("How the reference picture steers.", "canny", examples=list(control_names()))
    low_threshold: Whole | None = _field("Of Canny's edges.", ControlOptions.low_threshold, sd15.THRESHOLD_RANGE)
    high_threshold: Whole | None = _field("Of Canny's edges.", ControlOptions.high_threshold, sd15.THRESHOLD_RANGE)
    controlnet_conditioning_scale: Number | None = _field(
        "How strongly it steers.", ControlRequest.conditioning_scale, sd15.CONDITIONING_SCALE_RANGE
    )
    control_guidance_start: Number | None = _field(
        "The share of the steps from which on it steers.", ControlRequest.start, sd15.SHARE_RANGE
    )
    control_guidance_end: Number | None = _field(
        "The share of the steps up to which it steers.", ControlRequest.end, sd15.SHARE_RANGE
    )


Fields = TypeVar("Fields", bound=PictureFields)


def validated(fields: Mapping[str, Any], kind: type[Fields]) -> Fields:
    """Check the types. Fields that were left empty count as absent, but for texts.

    :raises RequestValidationError: the field, what it should be and what came.
    """
    try:
        return kind.model_validate({name: v for name, v in fields.items() if v != "" or name in TEXT_FIELDS})
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


def request_body() -> dict[str, Any]:
    """The OpenAPI description of the body, which may be JSON or a form."""

    def schema(picture: dict[str, Any]) -> dict[str, Any]:
        described = GenerateFields.model_json_schema()
        others = {
            name: {**picture, "description": f"Another name of `{PICTURE_FIELDS[0]}`."} for name in PICTURE_FIELDS
        }
        ours = {**picture, "description": "The reference picture. Base64 may have a data URL around it."}
        described["properties"] |= {**others, PICTURE_FIELDS[0]: ours}
        return {"schema": described}

    return {
        "required": True,
        "content": {
            "application/json": schema({"type": "string"}),
            "multipart/form-data": schema({"type": "string", "format": "binary"}),
        },
    }
