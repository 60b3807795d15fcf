"""The text that AUTOMATIC1111's stable-diffusion-webui 1.10 writes into images (modules/infotext_utils.py), both ways.

It is the prompt with a tag `<lora:name:weight>` for each LoRA, a line with the negative prompt, and `name: value`
pairs, which begin with "Steps". It cannot hold every prompt (one with a line that begins with "Negative prompt:", say),
nor LoRAs whose weight changes from step to step.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from darkroom.diffusion.schedulers import title
from darkroom.foreign_names import scheduler_fields

_NEGATIVE = "Negative prompt:"
_PRODUCT = "Darkroom "
_CONTROL = "ControlNet 0"
# Upstream's, with bounds on names and blanks: without them a hostile line takes time in the square of its length.
_PAIR = re.compile(r'[ \t]{0,9}(\w[\w \-/]{1,60}):[ \t]{0,9}("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d{1,7})x(\d{1,7})")
_QUOTE = re.compile(r'(?<!\\)"')
_FIRST = re.compile(r"Steps: *\d")
_NO_TAG_NAME = re.compile(r"[<>:,]")
_HASH_DIGITS = 10
"""Of the SHA-256 of a file: by so many (AutoV2) sites with LoRAs find it."""
_FEWEST_PAIRS = 3
"""Fewer are a part of the prompt (upstream's rule)."""
_MOST_STARTS = 16
"""Lines that are tried as the beginning of the pairs."""


def parse(text: str) -> dict[str, Any]:
    """Read the web UI's layout, ours or a foreign one.

    :returns: "prompt", "negative_prompt" and, as far as they are there, "steps", "scheduler" (one of ours), "sampler"
        and "schedule_type" (where none of ours is the same), "guidance_scale", "seed", "width", "height", "strength",
        "model", "model_hash", "version" and the six fields of control. "other" has the remaining pairs as they are, and
        "unsupported" what a request has a field for and this service no value.
    """
    prompt, negative, pairs = _parts(text)
    return {"prompt": prompt, "negative_prompt": negative, **_fields(pairs)}


def _parts(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and pairs."""
    lines = text.rstrip().split("\n")
    start = _start(lines)
    pairs = dict(_pairs("\n".join(lines[start:])))
    lines = [line.rstrip("\r") for line in lines[:start]]
    at = next((i for i, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    negative = [line.removeprefix(_NEGATIVE).removeprefix(" ") for line in lines[at : at + 1]] + lines[at + 1 :]
    return "\n".join(lines[:at]), "\n".join(negative), pairs


def _start(lines: list[str]) -> int:
    """The line that the pairs begin with. Their values may have line ends, so it need not be the last one."""
    starts = [index for index, line in enumerate(lines) if _FIRST.match(line)][-_MOST_STARTS:]
    fitting = []
    for start in (*reversed(starts), len(lines) - 1):
        text = "\n".join(lines[start:])
        if len({match[1] for match in islice(_PAIR.finditer(text), _FEWEST_PAIRS)}) == _FEWEST_PAIRS:
            fitting.append((start, text))
    whole = [start for start, text in fitting if _QUOTE.subn("", text)[1] % 2 == 0]  # none begins inside of a value
    return whole[0] if whole else fitting[0][0] if fitting else len(lines)


def web_ui_pairs(text: str) -> dict[str, str]:
    """Read the web UI's layout into its own names, as its API gives them: "Prompt", "Negative prompt", and each pair as
    text, with "Size-1" and "Size-2" for width and height. Empty for an empty text."""
    if not text.strip():
        return {}
    prompt, negative, pairs = _parts(text)
    size = _SIZE.fullmatch(pairs.get("Size", ""))
    sides = {"Size-1": size[1], "Size-2": size[2]} if size else {}
    kept = {name: value for name, value in pairs.items() if not (size and name == "Size")}
    return {"Prompt": prompt, "Negative prompt": negative, **kept, **sides}


def web_ui_text(details: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> str:
    """The text of `darkroom.parameters.text_chunks`.

    :param more: further pairs.
    """
    pairs = {
        "Steps": details["steps"],
        "Sampler": title(details["scheduler"]),
        "CFG scale": details["guidance_scale"],
        "Seed": details["seed"],
        "Size": f"{details['width']}x{details['height']}",
        "Model hash": details["model_hash"],
        "Model": details["model"],
    }
    if "strength" in details:
        pairs["Denoising strength"] = details["strength"]
    if "control_type" in details:
        pairs[_CONTROL] = _joined({label: details[name] for label, name in _CONTROL_NAMES.items()})
    pairs |= more or {}
    pairs["Version"] = _PRODUCT + str(details["version"])
    loras = {_tag_name(lora): lora for lora in details.get("loras", ())}
    if loras:
        hashes = [f"{name}: {lora['digest'][:_HASH_DIGITS]}" for name, lora in loras.items() if "digest" in lora]
        pairs["Lora hashes"] = ", ".join(hashes)
    tags = [f"<lora:{name}:{lora.get('weight', 1.0):g}>" for name, lora in loras.items()]
    lines = [" ".join([details["prompt"], *tags])]
    if details["negative_prompt"]:
        lines.append(f"{_NEGATIVE} {details['negative_prompt']}")
    return "\n".join([*lines, _joined(pairs)])


def _tag_name(lora: Mapping[str, Any]) -> str:
    """What a LoRA is called in its tag: its name, or its digest where it has none or one that a tag cannot hold."""
    name = str(lora.get("name") or "")
    return name if name and not _NO_TAG_NAME.search(name) else str(lora.get("digest", name))


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
    value = plain_json(text) if text.startswith('"') else text
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
    "Denoising strength": ("strength", _finite),
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
        ours = pairs.get("Version", "").startswith(_PRODUCT)
        # Since 1.9 upstream writes the schedule apart: "Sampler: DPM++ 2M, Schedule type: Karras".
        found |= scheduler_fields(pairs["Sampler"], pairs.get("Schedule type"), ours=ours)
        if "scheduler" in found:
            pairs.pop("Sampler")
            pairs.pop("Schedule type", None)
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


def plain_json(text: str) -> Any:
    """The value, or None for what is no JSON or cannot be written as such again (NaN, half a surrogate pair)."""
    try:
        value = json.loads(text, strict=False)  # which takes line ends inside of texts
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value
