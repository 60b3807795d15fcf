"""What an image says of how it was made: a text that the common web UI reads, and the exact values as JSON.

PNGs carry them as text chunks, JPEGs and WebPs in their EXIF. `darkroom.infotext` has the layout of the text,
`darkroom.json_layouts` those of other programs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darkroom import containers
from darkroom.containers import exif
from darkroom.containers.png import chunks as png_chunks
from darkroom.errors import NotAnImage, TooLarge
from darkroom.images import decode
from darkroom.infotext import parse as parse
from darkroom.infotext import plain_json, web_ui_text
from darkroom.json_layouts import is_json, parse_json
from darkroom.png import MAX_TEXT_BYTES, read_text

WEB_UI_KEY = "parameters"
JSON_KEY = "darkroom"
_JSON_KEYS = (WEB_UI_KEY, "invokeai_metadata", "sd-metadata", "Comment")
"""Text chunks in which other programs store JSON."""
_MAX_PIXELS = 1 << 24
"""Maximum number of pixels of an image whose end is missing: it has to be decoded to know whether it is complete."""


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """What an image says of itself.

    :param chunks: every text by its keyword: text chunks of PNG, tags of EXIF.
    :param parameters: the web UI's text, or another program's in its place; or None.
    :param fields: `parse` of it, or of another program's JSON; or None.
    :param details: what `text_chunks` was given, or None.
    """

    chunks: dict[str, str]
    parameters: str | None
    fields: dict[str, Any] | None
    details: dict[str, Any] | None


def text_chunks(details: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The text chunks of an image.

    :param details: prompt, negative_prompt, steps, scheduler, guidance_scale, seed, width, height, model, model_hash,
        index, version; of an image that was changed also strength and masked; with control also control_type,
        low_threshold, high_threshold, controlnet_conditioning_scale, control_guidance_start, control_guidance_end;
        with LoRAs also loras.
        JSON can hold all of it.
    :param more: further pairs of the web UI's layout.
    :returns: "parameters" in the web UI's layout and "darkroom", the details as JSON (in ASCII).
    """
    # PNG forbids zero bytes in texts; the JSON has them escaped.
    return {WEB_UI_KEY: web_ui_text(details, more).replace("\0", ""), JSON_KEY: json.dumps(dict(details))}


def read_image(data: bytes) -> ImageInfo:
    """What a PNG, a JPEG or a WebP says.

    :raises NotAnImage: another file, or one that is damaged or cut short.
    :raises TooLarge: more or larger texts than anybody needs.
    """
    kind = containers.kind_of(data)
    if kind == "PNG":
        return read_png(data)
    if kind not in ("JPEG", "WEBP"):
        raise NotAnImage("This is not a PNG, JPEG or WebP.", param="file")
    source = containers.read(data)
    if source.unfinished:
        decode(data, max_pixels=_MAX_PIXELS)  # which refuses what is cut short
    return _info(_exif_texts(source.exif or b""))


def read_png(data: bytes) -> ImageInfo:
    """What a PNG says.

    :raises NotAnImage: not a PNG, or a damaged one.
    :raises TooLarge: more or larger texts than anybody needs.
    """
    texts = read_text(data)
    told = next((chunk.body for chunk in png_chunks(data) if chunk.kind == b"eXIf" and chunk.sound()), b"")
    return _info({**_exif_texts(told), **texts})


def _exif_texts(data: bytes) -> dict[str, str]:
    """The texts of EXIF; those that have a name in PNG, by that name."""
    texts = exif.texts(data)
    if any(len(text) > MAX_TEXT_BYTES for text in texts.values()):
        raise TooLarge(f"The EXIF has a text of more than {MAX_TEXT_BYTES:,} characters.", param="file")
    if exif.COMMENT in texts:
        texts[WEB_UI_KEY] = texts.pop(exif.COMMENT)
    if isinstance(plain_json(texts.get(exif.MAKER_NOTE, "")), dict):
        texts[JSON_KEY] = texts.pop(exif.MAKER_NOTE)
    return texts


def _info(chunks: dict[str, str]) -> ImageInfo:
    parameters = chunks.get(WEB_UI_KEY)
    details = plain_json(chunks.get(JSON_KEY, ""))
    return ImageInfo(
        chunks=chunks,
        parameters=parameters,
        fields=_read_fields(chunks),
        details=details if isinstance(details, dict) else None,
    )


def _read_fields(chunks: Mapping[str, str]) -> dict[str, Any] | None:
    text = chunks.get(WEB_UI_KEY)
    if text is not None and not is_json(text):
        return parse(text)
    read = (parse_json(chunks.get(key, "")) for key in _JSON_KEYS)
    return next((fields for fields in read if fields is not None), None)
