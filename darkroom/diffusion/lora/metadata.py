"""What LoRA files say about themselves: the metadata of kohya's trainer, of ModelSpec and of diffusers."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from darkroom.diffusion.lora.pack import Summary

_TITLES = ("modelspec.title", "ss_output_name", "ss_sd_model_name", "name")
_BASES = ("ss_base_model_version", "modelspec.architecture", "baseModel")
_TRIGGERS = ("modelspec.trigger_phrase", "ss_trigger_words", "trigger_words")
_ADAPTER = "lora_adapter_metadata"
"""diffusers writes PEFT's config here as JSON, with the component before every name: "unet.lora_alpha"."""
_LONGEST, _MOST = 200, 20
"""Characters of a text, and how many words or tags are kept."""


def summary(metadata: Mapping[str, str]) -> Summary:
    """What people want to know of a file. Anything that cannot be read counts as absent."""
    triggers = _first(metadata, _TRIGGERS).split(",")
    return Summary(
        title=_first(metadata, _TITLES),
        base_model=_first(metadata, _BASES),
        trigger_words=tuple(word.strip() for word in triggers if word.strip())[:_MOST],
        tags=_tags(metadata.get("ss_tag_frequency", "")),
        rank=_number(metadata.get("ss_network_dim")),
        alpha=_number(metadata.get("ss_network_alpha")),
    )


def adapter_scale(metadata: Mapping[str, str]) -> Callable[[str, str, int], float | None]:
    """The scale of modules whose alpha stands in PEFT's config instead of a tensor.

    :returns: (component, module, rank) -> scale, or None where the config does not say it.
    """
    config = _object(metadata.get(_ADAPTER, ""))

    def scale(component: str, module: str, rank: int) -> float | None:
        alpha = config.get(f"{component}.lora_alpha")
        for pattern, special in _object(config.get(f"{component}.alpha_pattern")).items():
            if module == pattern or module.endswith(f".{pattern}"):
                alpha = special
        value = _number(alpha)
        root = config.get(f"{component}.use_rslora") is True  # https://arxiv.org/abs/2312.03732
        return None if value is None else value / (math.sqrt(rank) if root else rank)

    return scale


def _first(metadata: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The first text that is there, in one line."""
    found = next((metadata[name] for name in names if metadata.get(name, "").strip()), "")
    return re.sub(r"\s+", " ", found).strip()[:_LONGEST]


def _tags(text: str) -> tuple[str, ...]:
    """The most frequent tags of all folders of images."""
    counts: Counter[str] = Counter()
    for folder in _object(text).values():
        for tag, count in _object(folder).items():
            counts[tag.strip()[:_LONGEST]] += count if isinstance(count, int) else 0
    return tuple(tag for tag, count in counts.most_common(_MOST) if tag and count > 0)


def _object(value: Any) -> dict[str, Any]:
    """A JSON object, or the one that a text has; empty where there is none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
