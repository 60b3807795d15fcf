"""Units of the extension sd-webui-controlnet as the fields of our controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from darkroom.diffusion.controls import control_names
from darkroom.errors import InvalidInput
from darkroom.request.edge import Number, Text, optional
from darkroom.request.fields import shown
from proxy.validation import validated

SCRIPTS = "alwayson_scripts"
_NAME = "controlnet"
_PLACE = f"{SCRIPTS}.{_NAME}.args"
_NOTHING = ("", "none")
_IMAGES = ("image", "input_image")
UNIT_NAMES = {
    "control_image": _PLACE,
    "control_type": "module",
    "low_threshold": "threshold_a",
    "high_threshold": "threshold_b",
    "controlnet_conditioning_scale": "weight",
    "control_guidance_start": "guidance_start",
    "control_guidance_end": "guidance_end",
}
"""Names of fields of a unit, by ours."""


class Unit(BaseModel):
    """The fields of a unit that are read here, without its image."""

    enabled: bool | None = optional("", True)
    module: Text | None = optional("", "none")
    model: Text | None = optional("", "None")
    weight: Number | None = optional("", 1.0)
    threshold_a: Number | None = optional("")
    threshold_b: Number | None = optional("")
    guidance_start: Number | None = optional("", 0.0)
    guidance_end: Number | None = optional("", 1.0)


def control_fields(scripts: Mapping[str, Any], init_image: Any) -> dict[str, Any]:
    """The fields of the control that a request asks for; none where it asks for none.

    :param scripts: its `alwayson_scripts`.
    :param init_image: the image that is changed, which is the reference image where the unit has none.
    :raises InvalidInput: another script, more than one unit, or a control that is not known here.
    """
    units: list[tuple[str, dict[str, Any]]] = []
    for name, script in scripts.items():
        args = script.get("args") if isinstance(script, dict) else script
        if not isinstance(args, list | None) and name.lower() == _NAME:
            raise InvalidInput(f"{_PLACE} must be a list of units; got {shown(args)}.", param=SCRIPTS)
        if name.lower() != _NAME:
            _refuse_others(name, args)
            continue
        units += [(f"{_PLACE}[{index}]", _object(one, index)) for index, one in enumerate(args or [])]
    enabled = [(place, unit) for place, unit in units if unit.get("enabled") is not False]
    if len(enabled) > 1:
        raise InvalidInput(f"{_PLACE} must have at most 1 enabled unit; got {len(enabled)}.", param=SCRIPTS)
    return _fields_of(*enabled[0], init_image) if enabled else {}


def _refuse_others(name: str, args: object) -> None:
    """Extensions that clients switch off by name are none to miss."""
    off = args in (None, [], {}) or (isinstance(args, list) and args[0] is False)
    if not off:
        raise InvalidInput(f"always on script {shown(name)} not found; there is {_NAME}.", param=SCRIPTS)


def _object(unit: Any, index: int) -> dict[str, Any]:
    if not isinstance(unit, dict):
        raise InvalidInput(f"{_PLACE}[{index}] must be an object; got {shown(unit)}.", param=SCRIPTS)
    return unit


def _fields_of(place: str, unit: dict[str, Any], init_image: Any) -> dict[str, Any]:
    read = validated({name: value for name, value in unit.items() if name not in _IMAGES}, Unit)
    module, model = (read.module or "none").strip().lower(), (read.model or "none").strip().lower()
    kind = module if module in control_names() else next((one for one in control_names() if one in model), None)
    if module not in (*_NOTHING, *control_names()) or kind is None:
        known = ", ".join(control_names())
        raise InvalidInput(
            f"{place}: module must be one of none, {known}, and with none the name of model must have one of {known} "
            f"in it; got {shown(read.module)} and {shown(read.model)}.",
            param=SCRIPTS,
        )
    image = _image_of(unit) or init_image
    if not image:
        raise InvalidInput(f"{place}.image is missing: the reference image.", param=SCRIPTS)
    found: dict[str, Any] = {
        "control_image": image,
        "control_type": kind,
        "control_preprocess": module not in _NOTHING,
        "controlnet_conditioning_scale": read.weight,
        "control_guidance_start": read.guidance_start,
        "control_guidance_end": read.guidance_end,
    }
    if module not in _NOTHING:
        found |= {"low_threshold": _threshold(read.threshold_a), "high_threshold": _threshold(read.threshold_b)}
    return {name: value for name, value in found.items() if value is not None}


def _threshold(value: float | None) -> int | None:
    """The extension has -1 for the usual value, and numbers with a fraction."""
    return None if value is None or value < 0 else round(value)


def _image_of(unit: Mapping[str, Any]) -> Any:
    found: Sequence[Any] = [unit[name] for name in _IMAGES if unit.get(name)]
    image = found[0] if found else None
    return image.get("image") if isinstance(image, dict) else image
