"""Which LoRAs an image is made with: as words of a command line, as tags in a prompt, and as a PNG records them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .calls_loras import SUFFIX

DigestOf = Callable[[Mapping[str, Any]], "str | None"]
"""Tells the digest of the file that a choice means; None where that cannot be found out."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)
_TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>", re.IGNORECASE)  # as the service reads them
_PREFIXES = {"session": "session_id", "sha256": "digest"}
_USUAL: Mapping[str, Any] = {"weight": 1.0, "weights_by_step": [], "start": 0.0, "end": 1.0}


def parse_choice(word: str) -> dict[str, Any]:
    """Read NAME, NAME:WEIGHT, session:ID:WEIGHT or sha256:DIGEST:WEIGHT as an entry of the field `loras`.

    >>> parse_choice("styles/my ink:0.8")
    {'name': 'styles/my ink', 'weight': 0.8}

    :raises ValueError: it is none of these; the message says what is wrong.
    """
    prefix, colon, rest = word.partition(":")
    kind = _PREFIXES.get(prefix, "name") if colon else "name"
    value, colon, weight = (word if kind == "name" else rest).rpartition(":")
    if not colon:
        value, weight = weight, "1"
    value, weight = value.strip(), weight.strip()
    if not value:
        raise ValueError(f"{word!r} names no LoRA; write NAME:0.8, session:ID:0.8 or sha256:DIGEST:0.8.")
    if not _NUMBER.fullmatch(weight):
        raise ValueError(f"the weight {weight!r} of {value!r} is no number; write {value}:0.8.")
    return {kind: value} | ({} if float(weight) == 1 else {"weight": float(weight)})


def without_tags(prompt: str) -> tuple[str, list[dict[str, Any]]]:
    """Take `<lora:name:0.8>` out of a prompt, as the service does; tags that it refuses stay in the text."""
    weights: dict[str, float] = {}
    for tag in _TAG.finditer(prompt):
        name, *rest = (part.strip() for part in tag[1].split(":"))
        if not name or len(rest) > 1 or not all(_NUMBER.fullmatch(part) for part in rest):
            return prompt, []
        weights[name] = weights.get(name, 0.0) + (float(rest[0]) if rest else 1.0)
    return _TAG.sub("", prompt), [{"name": name, "weight": weight} for name, weight in weights.items()]


def are_others(wanted: Sequence[Mapping[str, Any]], recorded: object, digest_of: DigestOf) -> bool:
    """Whether an image was certainly made with other LoRAs than the wanted ones, or with other weights.

    :param recorded: what the image says: a list of objects with `digest` and `name` (of the file, without folders).
    """
    found = recorded if isinstance(recorded, list) else []
    if len(wanted) != len(found):
        return True
    pairs = list(zip(wanted, found, strict=True))
    if not all(isinstance(one, Mapping) and _weights(choice) == _weights(one) for choice, one in pairs):
        return True
    return any(_is_another(choice, one, digest_of) for choice, one in pairs)


def _weights(choice: Mapping[str, Any]) -> list[Any]:
    return [choice.get(name, usual) for name, usual in _USUAL.items()]


def _is_another(choice: Mapping[str, Any], recorded: Mapping[str, Any], digest_of: DigestOf) -> bool:
    digest = choice["digest"].lower() if "digest" in choice else digest_of(choice)
    if digest is not None:
        return bool(digest != recorded.get("digest"))
    name = choice.get("name")
    return name is not None and _last_part(name) != recorded.get("name")


def _last_part(name: str) -> str:
    return name.removesuffix(SUFFIX).rpartition("/")[2]
