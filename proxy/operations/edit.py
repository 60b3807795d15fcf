"""The operation `edit`: changes images as a text says, in one of the modes of `darkroom.edit_modes` or in none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Any

from pydantic import BaseModel

from darkroom.edit_modes.modes import (
    MODE_RANGE,
    STEPS_OF_ONE,
    STEPS_OF_SEVERAL,
    TRUE_GUIDANCE_SCALE,
    EditMode,
    edit_mode,
)
from darkroom.edit_modes.params import (
    ADDITIONAL_PARAMS,
    TEXT_PARAMS,
    AdditionalParams,
    TextParams,
    parse_additional_params,
    parse_text_params,
)
from darkroom.edit_modes.prompt import enhanced_prompt, unread_text_params
from darkroom.errors import Conflict, InvalidInput
from darkroom.images import probe
from darkroom.request.edge import Whole, optional
from darkroom.request.field import Field, resolved
from proxy.ignored import ignored
from proxy.models import ServedModel
from proxy.operations.generate import Generate
from proxy.operations.taking import image_names
from proxy.services import Services
from proxy.tasks.models import Work
from proxy.uploads import take_image, take_images
from proxy.validation import validated

MODE = "mode"
CONTROL_IMAGE = "controlnet_image"
STEERING_IMAGE = "control_image"
"""The field of families whose ControlNet reads control images."""
MAKE_MAP = "make_map"
"""The field of families that make control images of the first image themselves."""
MODE_NAMES = frozenset({MODE, CONTROL_IMAGE, TEXT_PARAMS, ADDITIONAL_PARAMS})
"""The fields of every edit that are no fields of a model."""
IMAGES = "images"
"""The field of every family that edits which holds the images."""
_NO_NEGATIVE = " "
"""The negative prompt of requests without one: the models have no true guidance without any."""

_PUBLISHED: Mapping[str, tuple[float, ...]] = {
    "steps": (STEPS_OF_ONE, STEPS_OF_SEVERAL),
    "true_guidance_scale": (TRUE_GUIDANCE_SCALE,),
}
"""What the published checkpoints want."""


class ModeFields(BaseModel):
    """The fields of `MODE_NAMES` without the image."""

    mode: Whole | None = optional("What kind of edit; see `GET /edit-modes`.")
    text_params_json: str | dict[str, Any] | None = optional(
        f"The JSON of an object with some of {', '.join(TextParams.model_fields)}: what modes 9 to 12 do to the text."
    )
    additional_params_json: str | dict[str, Any] | None = optional(
        f"The JSON of an object with some of {', '.join(AdditionalParams.model_fields)}, for all modes."
    )


@dataclass(frozen=True, kw_only=True)
class Edit(Generate):
    """The fields of the family and those of `Generate`, and four more: `mode`, and what modes read:
    `controlnet_image`, `text_params_json`, `additional_params_json`."""

    @property
    def names(self) -> frozenset[str]:
        return super().names | MODE_NAMES

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        edit = await settled(services, self.model, fields)
        work = await super().accept(services, edit.fields)
        return replace(work, warnings=[*edit.warnings, *work.warnings])


@dataclass(frozen=True, kw_only=True)
class SettledEdit:
    """A request without the fields of its mode, which have shaped the others.

    :param warnings: of parameters that the mode does not read.
    """

    fields: dict[str, Any]
    mode: EditMode | None = None
    warnings: list[dict[str, Any]] = dataclass_field(default_factory=list)


async def settled(
    services: Services, model: ServedModel, fields: Mapping[str, Any], usual: Mapping[str, Any] | None = None
) -> SettledEdit:
    """Put what the mode says into the fields of the model. Without a mode the prompt stays as it is.

    :param usual: values of fields that the request does not name, where there is no mode.
    :raises InvalidInput: a field of the mode is wrong or missing, or the images do not fit the mode.
    :raises Conflict: there are several images, and this installation edits one at a time.
    :raises NotFound: the model is not installed.
    """
    model.require(services)
    left = {name: value for name, value in fields.items() if name not in MODE_NAMES}
    sent = {name: value for name, value in fields.items() if name in MODE_NAMES}
    number = validated({MODE: sent.get(MODE)}, ModeFields, {MODE: MODE_RANGE}).mode
    mode = None if number is None else edit_mode(number)
    sent_as, images = await _take_images(services, model, left)
    control = await _control_image(services, model, sent)
    warnings: list[dict[str, Any]] = []
    made: dict[str, Any] = {}
    steered = bool(getattr(model.checkpoint(services), "controlnet", ""))
    if mode is None:
        _require_no_mode_fields(sent, control)
    else:
        additional = parse_additional_params(sent.get(ADDITIONAL_PARAMS))
        made = _made_control(mode, model, additional, control)
        mode.check_images(len(images), control=control is not None or bool(made))
        warnings = _shape_prompt(mode, left, sent, len(images), additional, steered=steered)
        usual = {"true_guidance_scale": mode.true_guidance_scale, "guidance_scale": mode.guidance_scale}
        usual |= {"steps": mode.steps}
    pictures = images if control is None or steered else [*images, control]
    if len(pictures) + (0 if steered else len(made)) > 1:
        require_several(services, model)
    left |= {STEERING_IMAGE: control} if control is not None and steered else {}
    left |= made | ({sent_as: pictures} if pictures else {})
    _add_usual(services, model, left, {**(usual or {}), "negative_prompt": _NO_NEGATIVE})
    return SettledEdit(fields=left, mode=mode, warnings=warnings)


def reads_several(services: Services, model: ServedModel) -> bool:
    """Whether edits may have several images: USE_PLUS_PIPELINE where it is set, and the checkpoint as far as it is
    known."""
    most = getattr(model.checkpoint(services), "most_images", None)
    return services.settings.use_plus_pipeline is not False and (most is None or most > 1)


def require_several(services: Services, model: ServedModel) -> None:
    """:raises Conflict: edits may not have several images."""
    if not reads_several(services, model):
        off = services.settings.use_plus_pipeline is False
        why = "USE_PLUS_PIPELINE is off" if off else f"the model {model.name} reads one image"
        raise Conflict(
            f"Edits with several images need the plus pipeline, and {why}. Set USE_PLUS_PIPELINE=true and serve a "
            "model that reads several images, such as Qwen/Qwen-Image-Edit-2509.",
            param=IMAGES,
        )


async def _take_images(services: Services, model: ServedModel, fields: dict[str, Any]) -> tuple[str, list[bytes]]:
    """Remove the images from `fields`; return the name that they were sent under, and them."""
    about = model.family.request.fields()[IMAGES]
    bounds = about.bounds(model.limits(services))
    most = int(bounds[1]) if bounds else 1
    found = await take_images(fields, image_names(IMAGES, about), max_mb=services.settings.max_upload_mb, most=most)
    return found or (IMAGES, [])


async def _control_image(services: Services, model: ServedModel, fields: dict[str, Any]) -> bytes | None:
    """The control image, of which only the header is read."""
    found = await take_image(fields, (CONTROL_IMAGE,), max_mb=services.settings.max_upload_mb)
    if found is None:
        return None
    most = resolved(model.family.request.fields()[IMAGES].max_pixels, model.limits(services))
    await asyncio.to_thread(probe, found[1], max_pixels=most, param=CONTROL_IMAGE)
    return found[1]


def _require_no_mode_fields(sent: Mapping[str, Any], control: bytes | None) -> None:
    given = [name for name in (TEXT_PARAMS, ADDITIONAL_PARAMS) if sent.get(name) not in (None, "")]
    given += [CONTROL_IMAGE] if control is not None else []
    if given:
        raise InvalidInput(f"{MODE} is missing: {given[0]} is read by modes alone.", param=MODE)


def _made_control(
    mode: EditMode, model: ServedModel, additional: AdditionalParams, control: bytes | None
) -> dict[str, Any]:
    """The field of the model that asks for a control image made of the first image; empty where none is wanted.

    :raises InvalidInput: the mode reads no control image, or the request has one.
    :raises Conflict: the model makes none.
    """
    param = f"{ADDITIONAL_PARAMS}.make_control"
    if not additional.make_control:
        return {}
    if not mode.make_map:
        raise InvalidInput(f"{param} is for modes 13 to 16; mode {mode.mode} reads no control image.", param=param)
    if control is not None:
        raise InvalidInput(f"{param} and {CONTROL_IMAGE} exclude each other; got both.", param=param)
    if MAKE_MAP not in model.family.request.fields():
        raise Conflict(f"{param}: the model {model.name} makes no control images.", param=param)
    return {MAKE_MAP: mode.make_map}


def _shape_prompt(
    mode: EditMode,
    fields: dict[str, Any],
    sent: Mapping[str, Any],
    images: int,
    additional: AdditionalParams,
    *,
    steered: bool,
) -> list[dict[str, Any]]:
    """Replace the prompt; returns warnings for parameters that are not read.

    :param steered: whether a ControlNet reads control images.
    """
    text = parse_text_params(sent.get(TEXT_PARAMS))
    prompt = fields.get("prompt")
    # Another value is refused where the fields of the model are checked.
    plain = prompt if isinstance(prompt, str) else ""
    made = enhanced_prompt(mode, plain, images=images, text=text, additional=additional, steered=steered)
    if isinstance(prompt, str):
        fields["prompt"] = made
    unread = unread_text_params(mode, text)
    read = [name for name in TextParams.model_fields if name not in unread]
    return [
        *ignored([*unread, *(text.model_extra or {})], read, f"{TEXT_PARAMS}."),
        *ignored(additional.model_extra or {}, AdditionalParams.model_fields, f"{ADDITIONAL_PARAMS}."),
    ]


def _add_usual(services: Services, model: ServedModel, fields: dict[str, Any], usual: Mapping[str, Any]) -> None:
    """Add values of fields that are not given, within the limits. A checkpoint that wants others than the published
    ones, as small and distilled ones do, has its own."""
    kind, checkpoint = model.family.request, model.checkpoint(services)
    own, ranges = checkpoint.request_defaults if checkpoint else {}, kind.ranges(model.limits(services))
    for name, value in usual.items():
        about = kind.fields().get(name)
        decided = name in own and own[name] not in _PUBLISHED.get(name, ())
        if about is not None and not decided and not _is_given(fields, name, about):
            fields[name] = min(value, ranges[name][1]) if name in ranges else value


def _is_given(fields: Mapping[str, Any], name: str, about: Field) -> bool:
    absent = (None,) if about.may_be_empty else (None, "")
    return any(fields.get(one) not in absent for one in (name, *about.aliases))
