"""LoRAs that are named in a prompt: `<lora:name:0.8>`, the notation of the common web UI (AUTOMATIC1111).

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#extra-networks
"""

from __future__ import annotations

import math
import re

from darkroom.errors import InvalidInput
from darkroom.request.fields import shown
from darkroom.request.loras import LONGEST_NAME, MOST_LORAS, WEIGHT_RANGE, LoraChoice
from darkroom.serving.loras import is_digest

_TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>", re.IGNORECASE)
"""`lyco` was the name of LyCORIS' extension, whose files are read like others."""


def parse_tags(prompt: str, param: str = "prompt") -> tuple[str, list[tuple[str, float]]]:
    """Take the tags out of a prompt.

    What has no closing bracket is no tag and stays text, and so does what stands around a tag inside of another one.
    A name that comes twice counts with the sum of its weights.

    :param param: the field that the text is from.
    :returns: the prompt without the tags and otherwise as it was; (name, weight) in the order of their first tags.
    :raises InvalidInput: a tag has no name, a weight that is none or out of WEIGHT_RANGE, or more than one weight.
    """
    weights: dict[str, float] = {}
    for tag in _TAG.finditer(prompt):
        name, weight = _parsed(tag[1], tag[0], param)
        weights[name] = weights.get(name, 0.0) + weight
    if len(weights) > MOST_LORAS:
        raise InvalidInput(f"{param} must name at most {MOST_LORAS} LoRAs; got {len(weights)}.", param=param)
    for name, weight in weights.items():
        _check(weight, f"the tags of {shown(name)}", param)
    return without_tags(prompt), list(weights.items())


def take_loras(prompt: str, param: str = "prompt") -> tuple[str, tuple[LoraChoice, ...]]:
    """Take the tags out of a prompt, as LoRAs that are given by their names, or by the digest that is the name.

    :raises InvalidInput: as `parse_tags` does.
    """
    clean, found = parse_tags(prompt, param)
    return clean, tuple(_choice(name, weight) for name, weight in found)


def _choice(name: str, weight: float) -> LoraChoice:
    if is_digest(name):
        return LoraChoice(digest=name, weight=weight)
    return LoraChoice(name=name, weight=weight)


def without_tags(prompt: str) -> str:
    """A prompt without its tags, whatever they say."""
    return _TAG.sub("", prompt)


def first_tag(prompt: str) -> str:
    """The first tag of a prompt as it stands there; empty if there is none."""
    found = _TAG.search(prompt)
    return found[0] if found else ""


def _parsed(text: str, tag: str, param: str) -> tuple[str, float]:
    """Name and weight of one tag; without a weight it is 1."""
    name, *rest = (part.strip() for part in text.split(":"))
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise InvalidInput(
            f"{param}: {shown(tag)} must have a name of 1 to {LONGEST_NAME} characters in one line.", param=param
        )
    if len(rest) > 1:
        raise InvalidInput(
            f"{param}: {shown(tag)} must have one weight, which all networks share; got {len(rest)}.", param=param
        )
    try:
        weight = float(rest[0]) if rest else 1.0
    except ValueError:
        weight = math.nan
    _check(weight, shown(tag), param, rest[0] if rest else "")
    return name, weight


def _check(weight: float, what: str, param: str, came: str = "") -> None:
    """:raises InvalidInput: it is not in WEIGHT_RANGE, or no number."""
    low, high = WEIGHT_RANGE
    if not low <= weight <= high:
        came = shown(came) if math.isnan(weight) else f"{weight:g}"
        raise InvalidInput(f"{param}: the weight of {what} must be from {low:g} to {high:g}; got {came}.", param=param)
