"""What a PNG on the disk says it was made with. Read here, without the service and without decoding the image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .fields import DEFAULTS, GENERATE_IMAGES
from .lora_choice import DigestOf, are_others, without_tags

KEYWORD = b"darkroom"  # of the text chunk (tEXt) that holds all parameters as JSON
LARGEST_TEXT = 1 << 20  # bytes; a chunk that claims more is none of ours

_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Of what is not asked for, the service takes these.
_DEFAULTS: dict[str, Any] = {"steps": DEFAULTS["generate"]["steps"], "negative_prompt": "", "control_type": None}
_DEFAULTS |= {"strength": None, "masked": None}
_CONTROL_DEFAULTS = {
    name: DEFAULTS["generate"][name]
    for name in (
        "control_type",
        "control_preprocess",
        "low_threshold",
        "high_threshold",
        "controlnet_conditioning_scale",
        "control_guidance_start",
        "control_guidance_end",
    )
}
# What images do not record that were made before there was such a field.
_RECORDED = {"control_preprocess": True}
# These say nothing about the image, or cannot be seen in what is recorded.
_NOT_COMPARED = {"num_images", "format", "quality", "preview_every", "model", "loras", *GENERATE_IMAGES}


def made_otherwise(
    path: Path,
    wanted: Mapping[str, Any],
    most_steps: Callable[[], int | None] = lambda: None,
    digest_of: DigestOf = lambda _: None,
) -> bool:
    """Whether a file was certainly made with other settings than the `wanted` ones, which are fields of a request.

    False where the file does not say, because it is no PNG, say. Size, guidance scale and scheduler count where they
    are asked for: what suits the checkpoint is not known here.

    :param most_steps: asks the service for its limit, which is its default if it is less than the usual one. Called
        only where it makes a difference.
    :param digest_of: asks the service which file a LoRA is. Called only where all else is the same.
    """
    recorded = read_recorded(path)
    if recorded is None:
        return False
    given = {name: value for name, value in wanted.items() if value is not None}
    image = {"strength": DEFAULTS["generate"]["strength"], "masked": "mask" in given} if "init_image" in given else {}
    given["prompt"], tags = without_tags(given.get("prompt", ""))
    wanted = {**_DEFAULTS, **(_CONTROL_DEFAULTS if "control_image" in given else {}), **image, **given}
    recorded = {**(_RECORDED if "control_type" in recorded else {}), **recorded}
    if "steps" not in given and _is_less(recorded.get("steps"), _DEFAULTS["steps"]):
        wanted["steps"] = min(_DEFAULTS["steps"], most_steps() or _DEFAULTS["steps"])
    names = wanted.keys() - _NOT_COMPARED
    if any(_comparable(name, recorded.get(name)) != _comparable(name, wanted[name]) for name in names):
        return True
    return are_others([*given.get("loras", ()), *tags], recorded.get("loras"), digest_of)


def _is_less(value: Any, other: int) -> bool:
    return isinstance(value, int) and value < other


def _comparable(name: str, value: Any) -> Any:
    """The service takes "DPM++ 2M Karras" for dpmpp_2m_karras, and records that."""
    if name != "scheduler" or not isinstance(value, str):
        return value
    return "".join(letter for letter in value.lower().replace("++", "pp") if letter.isalnum())


def read_recorded(path: Path) -> Mapping[str, Any] | None:
    """The parameters that Darkroom wrote into a PNG; None if there are none."""
    try:
        with path.open("rb") as file:
            for keyword, text in _texts(file):
                if keyword == KEYWORD:
                    content = json.loads(text)
                    return content if isinstance(content, dict) else None
    except (OSError, ValueError, RecursionError):  # a file of another program, or a damaged one
        pass
    return None


def _texts(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Keyword and text of the plain text chunks before the pixels (PNG specification, 11.3.3.2)."""
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        return
    while True:
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IDAT" or length > LARGEST_TEXT:
            return
        data = file.read(length + 4)[:-4]  # a checksum comes behind
        if kind == b"tEXt":
            keyword, _, text = data.partition(b"\0")
            yield keyword, text
