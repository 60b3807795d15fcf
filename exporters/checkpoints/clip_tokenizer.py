"""CLIP's tokenizers for the library `tokenizers`, as the file tokenizer.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters import onnx_export
from exporters.checkpoints import tokenizers
from exporters.checkpoints.tokenizers import ODD_TEXTS
from exporters.errors import ExportError


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A tokenizer for the loop.

    :param json: the content of tokenizer.json; it neither pads nor cuts off.
    :param max_tokens: of a chunk, begin and end included.
    """

    json: str
    max_tokens: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int


def present(root: Path, folder: str = "tokenizer") -> tuple[str, ...]:
    """The tokenizer's files of a checkpoint, by their path inside it.

    :param folder: of the tokenizer, inside the checkpoint.
    :raises ExportError: there is no tokenizer.
    """
    found = [file.removeprefix(f"{folder}/") for file in tokenizers.present(root, root / folder)]
    if "tokenizer.json" not in found and not {"vocab.json", "merges.txt"} <= set(found):
        raise ExportError(f"{root.name} has no {folder}/vocab.json with {folder}/merges.txt, nor tokenizer.json.")
    return tuple(f"{folder}/{name}" for name in found)


def convert(root: Path, folder: str = "tokenizer", *, longest: int) -> Converted:
    """The tokenizer of a checkpoint, compared with transformers' CLIPTokenizer on odd texts.

    :param folder: of the tokenizer, inside the checkpoint.
    :param longest: tokens that the text encoder can read.
    :raises ExportError: it is damaged, or `tokenizers` reads the result differently.
    """
    original = tokenizers.load(root / folder, "CLIPTokenizer", f"{root.name}/{folder}")
    converted = tokenizers.plain(original)
    with onnx_export.quiet():
        theirs = [original(text, truncation=False, padding=False)["input_ids"] for text in ODD_TEXTS]
    ours = [converted.encode(text).ids for text in ODD_TEXTS]
    tokenizers.require_same_tokens(root.name, ODD_TEXTS, ours, theirs)
    return Converted(
        json=converted.to_str(),
        max_tokens=min(original.model_max_length, longest),
        bos_token_id=_token(f"{root.name}/{folder}", original, "bos_token_id"),
        eos_token_id=_token(f"{root.name}/{folder}", original, "eos_token_id"),
        pad_token_id=_token(f"{root.name}/{folder}", original, "pad_token_id"),
    )


def _token(where: str, original: Any, name: str) -> int:
    value = getattr(original, name)
    if value is None:
        raise ExportError(f"{where} has no {name}.")
    return int(value)
