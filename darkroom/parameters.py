"""What a picture says of how it was made: a text that the common web UI reads, and the exact values as JSON.

The text is the layout of AUTOMATIC1111's stable-diffusion-webui 1.10, modules/infotext_utils.py: the prompt, a line
with the negative prompt, and one line of `name: value` pairs. It cannot hold every prompt (one with a line that begins
with "Negative prompt:", say); the JSON can.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.errors import InvalidInput
from darkroom.png import read_text
from darkroom.schedulers import known_name, title

WEB_UI_KEY = "parameters"
JSON_KEY = "darkroom"

_NEGATIVE = "Negative prompt:"
_PRODUCT = "Darkroom "
_CONTROL = "ControlNet 0"
# Upstream's, with bounds on names and blanks: without them a hostile line takes time in the square of its length.
_PAIR = re.compile(r'[ \t]{0,9}(\w[\w \-/]{1,60}):[ \t]{0,9}("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d{1,7})x(\d{1,7})")
_FEWEST_PAIRS = 3
"""A last line with fewer is a part of the prompt (upstream's rule)."""


@dataclass(frozen=True, kw_only=True)
class PngInfo:
    """What a PNG says of itself.

    :param chunks: every text chunk by its keyword.
    :param parameters: the web UI's text, or None.
    :param fields: `parse` of it, or None.
    :param details: what `text_chunks` was given, or None.
    """

    chunks: dict[str, str]
    parameters: str | None
    fields: dict[str, Any] | None
    details: dict[str, Any] | None


def text_chunks(details: Mapping[str, Any]) -> dict[str, str]:
    """The text chunks of a picture.

    :param details: prompt, negative_prompt, steps, scheduler, guidance_scale, seed, width, height, model, model_hash,
        index, version; with control also control_type, low_threshold, high_threshold, controlnet_conditioning_scale,
        control_guidance_start, control_guidance_end. JSON can hold all of it.
    :returns: "parameters" in the web UI's layout and "darkroom", the details as JSON (in ASCII).
    """
    # PNG forbids zero bytes in texts; the JSON has them escaped.
    return {WEB_UI_KEY: _web_ui_text(details).replace("\0", ""), JSON_KEY: json.dumps(dict(details))}


def parse(text: str) -> dict[str, Any]:
    """Read the web UI's layout, ours or a foreign one.

    :returns: "prompt", "negative_prompt" and, as far as they are there, "steps", "scheduler" (one of ours, or
        the text as it is for another), "guidance_scale", "seed", "width", "height", "model",
        "model_hash", "version" and the six fields of control. "other" has the remaining pairs as they are.
    """
    *lines, last = text.rstrip().split("\n")
    pairs = dict(_pairs(last))
    if len(pairs) < _FEWEST_PAIRS:
        lines, pairs = [*lines, last], {}
    lines = [line.rstrip("\r") for line in lines]
    at = next((i for i, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    negative = [line.removeprefix(_NEGATIVE).removeprefix(" ") for line in lines[at : at + 1]] + lines[at + 1 :]
    return {"prompt": "\n".join(lines[:at]), "negative_prompt": "\n".join(negative), **_fields(pairs)}


def read_png(data: bytes) -> PngInfo:
    """What a PNG's text chunks say.

    :raises NotAnImage: not a PNG, or a damaged one.
    :raises TooLarge: more or larger texts than anybody needs.
    """
    chunks = read_text(data)
    parameters = chunks.get(WEB_UI_KEY)
    details = _json(chunks.get(JSON_KEY, ""))
    return PngInfo(
        chunks=chunks,
        parameters=parameters,
        fields=None if parameters is None else parse(parameters),
        details=details if isinstance(details, dict) else None,
    )


def _web_ui_text(details: Mapping[str, Any]) -> str:
    pairs = {
        "Steps": details["steps"],
        "Sampler": title(details["scheduler"]),
        "CFG scale": details["guidance_scale"],
        "Seed": details["seed"],
        "Size": f"{details['width']}x{details['height']}",
        "Model hash": details["model_hash"],
        "Model": details["model"],
    }
    if "control_type" in details:
        pairs[_CONTROL] = _joined({label: details[name] for label, name in _CONTROL_NAMES.items()})
    pairs["Version"] = _PRODUCT + str(details["version"])
    lines = [details["prompt"]]
    if details["negative_prompt"]:
        lines.append(f"{_NEGATIVE} {details['negative_prompt']}")
    return "\n".join([*lines, _joined(pairs)])


# The names of the web UI's extension sd-webui-controlnet 1.1.
_CONTROL_NAMES = {
    "Module": "control_type",
    "Weight": "controlnet_conditioning_scale",
    "Threshold A": "low_threshold",
    "Threshold B": "high_threshold",
    "Guidance Start": "control_guidance_start",
    "Guidance End": "control_guidance_end",
}


def _joined(pairs: Mapping[str, Any]) -> str:
    shown = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in pairs.items()}
    return ", ".join(f"{name}: {_quoted(value)}" for name, value in shown.items())


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text


def _unquoted(text: str) -> str:
    value = _json(text) if text.startswith('"') else text
    return value if isinstance(value, str) else text


def _pairs(line: str) -> list[tuple[str, str]]:
    return [(name.strip(), _unquoted(value.strip())) for name, value in _PAIR.findall(line)]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Steps": ("steps", int),
    "CFG scale": ("guidance_scale", _finite),
    "Seed": ("seed", int),
    "Model hash": ("model_hash", str),
    "Model": ("model", str),
    "Version": ("version", lambda text: text.removeprefix(_PRODUCT)),
}
_CONTROL_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Module": ("control_type", str),
    "Weight": ("controlnet_conditioning_scale", _finite),
    "Threshold A": ("low_threshold", lambda text: round(_finite(text))),
    "Threshold B": ("high_threshold", lambda text: round(_finite(text))),
    "Guidance Start": ("control_guidance_start", _finite),
    "Guidance End": ("control_guidance_end", _finite),
}


def _fields(pairs: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    size = _SIZE.fullmatch(pairs.get("Size", ""))
    if size:
        found["width"], found["height"] = int(size[1]), int(size[2])
        del pairs["Size"]
    if "Sampler" in pairs:
        # Since 1.9 upstream writes the schedule apart: "Sampler: DPM++ 2M, Schedule type: Karras".
        schedule = pairs.pop("Schedule type", "Automatic")
        sampler = pairs.pop("Sampler")
        found["scheduler"] = _scheduler(sampler if schedule == "Automatic" else f"{sampler} {schedule}")
    if _CONTROL in pairs:
        control, unread = _read(dict(_pairs(pairs[_CONTROL])), _CONTROL_READERS)
        found |= control
        if control and not unread:
            del pairs[_CONTROL]
    known, other = _read(pairs, _READERS)
    return {**found, **known, "other": other}


def _read(
    pairs: Mapping[str, str], readers: Mapping[str, tuple[str, Callable[[str], Any]]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The pairs that `readers` understand, by our names, and the rest."""
    found: dict[str, Any] = {}
    rest: dict[str, str] = {}
    for label, text in pairs.items():
        try:
            name, read = readers[label]
            found[name] = read(text)
        except (KeyError, ValueError, OverflowError):
            rest[label] = text
    return found, rest


def _scheduler(text: str) -> str:
    try:
        return known_name(text)
    except InvalidInput:
        return text


def _json(text: str) -> Any:
    """The value, or None for what is no JSON or cannot be written as such again (NaN, half a surrogate pair)."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value
