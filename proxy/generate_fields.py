"""What `POST /generate` takes, and the tasks of other families: the types of the fields and their documentation.

Ranges are checked by each family's `GenerateRequest.parse` alone; the documentation is made of the same ranges.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from darkroom.diffusion.controls import ControlOptions, control_names
from darkroom.diffusion.schedulers import SCHEDULERS
from darkroom.errors import InvalidInput
from darkroom.pipelines.sd15.request import ControlRequest
from darkroom.request.fields import FORMATS, OTHER_FORMATS, Bounds, PictureRequest, between, choice, shown
from proxy.errors import entry

PICTURE_FIELDS = ("control_image", "image", "image_base64", "reference_image")
"""Names of the reference picture; the first one is ours."""
TEXT_FIELDS = ("prompt", "negative_prompt")
"""The fields that may be empty; in forms, others that are empty were left empty."""
PICTURE_FORMATS = tuple(name for name in FORMATS if name != "raw")
"""Bare rows are for programs on the same machine."""

OTHER_NAMES = {"num_inference_steps": "steps", "num_images_per_prompt": "num_images"}
"""Another name of a field -> ours."""
_SIZE = re.compile(r"(\d{1,9})\s*[xX*\u00d7]\s*(\d{1,9})")
_ANY_SIZE = "auto"
_LONG_NUMBER = re.compile(r"\s*[+-]?\d{1000,}\s*")


def _plain_number(value: Any) -> Any:
    if isinstance(value, bool):  # which pydantic would take for 0 or 1
        raise PydanticCustomError("number_type", "Input should be a number")
    if isinstance(value, str) and _LONG_NUMBER.fullmatch(value):
        return value.strip()[:1000]  # out of every range as it was, and Python reads no more than 4,300 digits
    return value


def _whole_characters(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can have half a surrogate pair, which is no character and not UTF-8
        raise PydanticCustomError("string_unicode", "Input should be a valid string") from None
    return value


_NO_SUCH_WORD = "word"


def word(name: str, allowed: Iterable[str], other_names: Mapping[str, str] | None = None) -> AfterValidator:
    """A text that is one of a few words, in any case."""

    def check(value: str) -> str:
        try:
            return choice(name, value, allowed, other_names=other_names)
        except InvalidInput as error:  # passed on by pydantic, which knows in which entry of a list it is
            raise PydanticCustomError(_NO_SUCH_WORD, "{message}", {"message": error.message}) from None

    return AfterValidator(check)


Text = Annotated[str, AfterValidator(_whole_characters)]
Whole = Annotated[int, BeforeValidator(_plain_number)]
Number = Annotated[float, BeforeValidator(_plain_number)]


def optional(help: str, default: Any = None, **schema: Any) -> Any:
    """An optional field, with the default that the documentation shows and what else that says of it."""
    extra: dict[str, Any] = {} if default is None else {"default": default}
    return Field(None, description=help, json_schema_extra=extra | schema)


class PictureFields(BaseModel):
    """What every family takes that makes pictures of a text."""

    prompt: Text = Field(description="What to show. Of any length up to the limit.")
    negative_prompt: Text | None = optional("What not to show.", "")
    steps: Whole | None = optional("Denoising steps. By default what suits the checkpoint.")
    guidance_scale: Number | None = optional("1 and below: no guidance. By default what the checkpoint asks for.")
    seed: Whole | None = optional("Of the first picture; the k-th has seed + k. Drawn if absent or -1.")
    randomize_seed: bool | None = optional("Draw a seed, whatever `seed` says.", False)
    width: Whole | None = optional("In pixels. By default the side that the checkpoint was trained at.")
    height: Whole | None = optional("In pixels. By default the side that the checkpoint was trained at.")
    size: Text | None = optional('Width and height in one, "512x768"; "auto" is the default.', examples=["auto"])
    num_images: Whole | None = optional("How many pictures.", PictureRequest.num_images)
    scheduler: Text | None = optional("By default the checkpoint's own.")
    preview_every: Whole | None = optional(
        "Steps between previews in a stream of events; 0 for none.", PictureRequest.preview_every
    )
    format: Annotated[Text, word("format", PICTURE_FORMATS, OTHER_FORMATS)] | None = optional(
        "Of the pictures.", PictureRequest.format, enum=list(PICTURE_FORMATS)
    )
    quality: Whole | None = optional("Of WebP and JPEG.", PictureRequest.quality)
    num_inference_steps: Whole | None = optional("Another name of `steps`.")
    num_images_per_prompt: Whole | None = optional("Another name of `num_images`.")

    def named(self) -> dict[str, Any]:
        """The fields by our names, absent ones as None.

        :raises InvalidInput: two names of one field, with different values; a size that is none.
        """
        values = self.model_dump()
        given = {name: values.pop(other) for other, name in OTHER_NAMES.items()}
        others = dict(zip(given, OTHER_NAMES, strict=True))
        for name, value in zip(("width", "height"), _sides(values.pop("size")), strict=True):
            given[name], others[name] = value, "size"
        for name, value in given.items():
            if value is not None and values[name] not in (None, value):
                raise InvalidInput(
                    f"{name} and {others[name]} are one field; got {shown(values[name])} and {shown(value)}.",
                    param=others[name],
                )
            values[name] = values[name] if value is None else value
        if values.pop("randomize_seed"):
            values["seed"] = None
        return values


def _sides(size: str | None) -> tuple[int | None, int | None]:
    if size is None or size.strip().lower() == _ANY_SIZE:
        return None, None
    sides = _SIZE.fullmatch(size.strip())
    if sides is None:
        raise InvalidInput(
            f'size must be width x height in pixels, such as 512x768, or "{_ANY_SIZE}"; got {shown(size)}.',
            param="size",
        )
    return int(sides[1]), int(sides[2])


class GenerateFields(PictureFields):
    """Text to image with SD 1.5."""

    prompt: Text = Field(description="`(word:1.3)` weighs a word. Of any length up to GENERATE_MAX_PROMPT.")
    guidance_scale: Number | None = optional(
        "1 and below: no guidance, in half the time. By default what the checkpoint asks for, else 7.5."
    )
    scheduler: Text | None = optional(
        "By default the checkpoint's own. The names of web UIs and of diffusers are understood, too.",
        enum=list(SCHEDULERS),
    )
    control_type: Annotated[Text, word("control_type", control_names())] | None = optional(
        "How the reference picture steers.", "canny", enum=list(control_names())
    )
    control_preprocess: bool | None = optional(
        "Whether the map is made of the reference picture. False: it is a map already.", ControlRequest.preprocess
    )
    low_threshold: Whole | None = optional("Of Canny's edges.", ControlOptions.low_threshold)
    high_threshold: Whole | None = optional("Of Canny's edges.", ControlOptions.high_threshold)
    controlnet_conditioning_scale: Number | None = optional(
        "How strongly it steers.", ControlRequest.conditioning_scale
    )
    control_guidance_start: Number | None = optional(
        "The share of the steps from which on it steers.", ControlRequest.start
    )
    control_guidance_end: Number | None = optional("The share of the steps up to which it steers.", ControlRequest.end)


GENERATE_NAMES = frozenset({*GenerateFields.model_fields, *PICTURE_FIELDS})
"""Every field of `POST /generate`."""

Fields = TypeVar("Fields", bound=BaseModel)
Ranges = Mapping[str, Bounds]


def validated(fields: Mapping[str, Any], kind: type[Fields], ranges: Ranges | None = None) -> Fields:
    """Check the types. Fields that were left empty count as absent, but for texts.

    :param ranges: of the numbers, to name them in errors.
    :raises InvalidInput, RequestValidationError: the field, what it should be and what came.
    """
    for name in kind.model_fields:
        if isinstance(fields.get(name), bytes):
            raise InvalidInput(f"{name} must be text and no file; got {shown(fields[name])}.", param=name)
    try:
        return kind.model_validate({name: v for name, v in fields.items() if v != "" or name in TEXT_FIELDS})
    except ValidationError as error:
        first = error.errors()[0]
        name = next(str(part) for part in reversed(first["loc"]) if isinstance(part, str))
        if first["type"] == _NO_SUCH_WORD:
            raise InvalidInput(entry(first["loc"]) + first["msg"], param=name) from None
        bounds = (ranges or {}).get(OTHER_NAMES.get(name, name))
        if bounds is not None and first["type"] != "missing":
            raise _no_number(name, entry(first["loc"]), first["type"], bounds, first["input"]) from None
        raise RequestValidationError(error.errors()) from None


def _no_number(name: str, where: str, kind: str, bounds: Bounds, came: object) -> InvalidInput:
    wanted = "a number" if kind.startswith(("float", "number")) else "a whole number (integer)"
    message = between(name, *bounds, came).message.replace("must be", f"must be {wanted}", 1)
    return InvalidInput(where + message, param=name)
