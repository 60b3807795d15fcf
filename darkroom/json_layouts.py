"""Parameters that other programs write as JSON: SwarmUI, Fooocus, InvokeAI, NovelAI and others like them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from darkroom.foreign_names import scheduler_fields
from darkroom.infotext import plain_json

_WRAPPERS = ("sui_image_params", "image", "parameters")
"""Keys under which some programs put all of it."""
_NAMES = {
    "prompt": ("prompt", "positive_prompt", "positiveprompt", "raw_prompt"),
    "negative_prompt": ("negative_prompt", "negativeprompt", "uc", "raw_negative_prompt"),
    "steps": ("steps", "num_inference_steps"),
    "guidance_scale": ("guidance_scale", "cfgscale", "cfg_scale", "scale", "cfg"),
    "seed": ("seed",),
    "width": ("width",),
    "height": ("height",),
    "model": ("model", "base_model", "model_name"),
    "model_hash": ("model_hash", "base_model_hash"),
    "version": ("version", "swarm_version", "app_version"),
}
"""Our fields by the keys of others."""
_SAMPLER = ("sampler", "sampler_name")
_SCHEDULE = ("scheduler", "schedule", "noise_schedule")
_RESOLUTION = ("resolution", "size")
_LARGEST = 1e20
_WHOLE = ("steps", "seed", "width", "height")
_SIDES = re.compile(r"\D{0,3}(\d{1,7})\s{0,3}[x×,*]\s{0,3}(\d{1,7})\D{0,3}")


def parse_json(text: str) -> dict[str, Any] | None:
    """The fields of `darkroom.infotext.parse`; None for a text that is no JSON object, or tells nothing known."""
    content = plain_json(text) if text.lstrip()[:1] == "{" else None
    if not isinstance(content, dict):
        return None
    rest: dict[str, Any] = {}
    for key, value in content.items():  # what is wrapped counts, and what stands beside it is kept
        rest |= value if key in _WRAPPERS and isinstance(value, dict) else {key: value}
    found = {name: value for name, keys in _NAMES.items() if (value := _take(rest, name, keys)) is not None}
    found |= _sides(rest) if "width" not in found else {}
    found |= _scheduler(rest)
    if not found.keys() - {"model", "version"}:
        return None
    other = {key: value if isinstance(value, str) else json.dumps(value) for key, value in rest.items()}
    return {"prompt": "", "negative_prompt": "", **found, "other": other}


def is_json(text: str) -> bool:
    """Whether a text is a JSON object or list, and so not a prompt."""
    return text.lstrip()[:1] in ("{", "[") and isinstance(plain_json(text), (dict, list))


def _take(rest: dict[str, Any], name: str, keys: tuple[str, ...]) -> Any:
    """The value of the first key that has a fitting one; it is taken out of `rest`."""
    for key in keys:
        value = _fitting(name, rest.get(key))
        if value is not None:
            del rest[key]
            return value
    return None


def _fitting(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) and name == "model":
        value = value.get("name") or value.get("model_name")
    if name in _WHOLE or name == "guidance_scale":
        number = _number(value)
        if number is None or name == "guidance_scale":
            return number
        return int(number) if number == int(number) else None
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | int | None:
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,20}", value.strip()):
        return int(value)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < _LARGEST else None  # NaN is not


def _sides(rest: dict[str, Any]) -> dict[str, int]:
    for key in _RESOLUTION:
        sides = _SIDES.fullmatch(str(rest.get(key, ""))[:99])
        if sides:
            del rest[key]
            return {"width": int(sides[1]), "height": int(sides[2])}
    return {}


def _scheduler(rest: dict[str, Any]) -> dict[str, Any]:
    sampler_key = next((key for key in _SAMPLER if isinstance(rest.get(key), str)), None)
    schedule_key = next((key for key in _SCHEDULE if isinstance(rest.get(key), str)), None)
    if sampler_key is None and schedule_key is None:
        return {}
    # InvokeAI has both in one name, and calls it the scheduler.
    sampler, schedule = (sampler_key, schedule_key) if sampler_key is not None else (schedule_key, None)
    found = scheduler_fields(rest[sampler or ""], None if schedule is None else rest[schedule])
    if "scheduler" in found:
        rest.pop(sampler or "")
        rest.pop(schedule or "", None)
    return found
