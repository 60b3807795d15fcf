"""tokenizer_*.json: the four tokenizers for the library `tokenizers`, which the loop can load without transformers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from darkroom.pipelines.hidream.checkpoint import Padding
from darkroom.pipelines.hidream.prompts import PromptTokenizer
from exporters import onnx_export
from exporters.checkpoints import tokenizers
from exporters.checkpoints.components import Component
from exporters.checkpoints.tokenizers import ODD_TEXTS
from exporters.errors import ExportError
from exporters.hidream import weights

CLIP_LONGEST = 218
"""Tokens that diffusers has CLIP read of a prompt (pipelines/hidream_image/pipeline_hidream_image.py)."""
_LENGTHS = (16, 128)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A tokenizer for the loop.

    :param json: the content of its file; it neither pads nor cuts off.
    :param padding: the fields of a `Padding`.
    """

    json: str
    padding: dict[str, int | str]


def present(checkpoint: weights.HidreamCheckpoint, encoder: str) -> tuple[str, ...]:
    """The files of a tokenizer, by their path inside its checkpoint.

    :raises ExportError: there are none.
    """
    root = checkpoint.llama_root if encoder == "llama" and checkpoint.llama_root else checkpoint.root
    return tokenizers.present(root, checkpoint.tokenizer(encoder))


def convert(checkpoint: weights.HidreamCheckpoint, encoder: str, part: Component) -> Converted:
    """The tokenizer of an encoder, compared with transformers' own on odd texts.

    :param part: the encoder, which knows how many tokens it can read.
    :raises ExportError: it is damaged, or `tokenizers` reads the result differently.
    """
    folder = checkpoint.tokenizer(encoder)
    original = tokenizers.load(folder, weights.TOKENIZERS[encoder][1], folder.name)
    if encoder == "llama":
        original.pad_token = original.eos_token  # as HiDreamImagePipeline does
    if original.padding_side != "right" or original.pad_token_id is None:
        raise ExportError(f"{folder.name}: prompts must be padded on the right, with a token for it.")
    plain = tokenizers.plain(original)
    padding = Padding(
        max_tokens=_longest(encoder, part.config, original),
        pad_token=str(original.pad_token),
        pad_token_id=int(original.pad_token_id),
    )
    _compare(folder.name, PromptTokenizer(tokenizer=plain, padding=padding), original)
    return Converted(json=plain.to_str(), padding=asdict(padding))


def _longest(encoder: str, config: dict[str, Any], original: Any) -> int:
    readable = int(config.get("max_position_embeddings", 2**16))
    # Upstream asks CLIP's tokenizer for no limit of its own: it says 77, and the encoder reads more.
    return min(readable, CLIP_LONGEST if encoder.startswith("clip") else int(original.model_max_length))


def _compare(name: str, reader: PromptTokenizer, original: Any) -> None:
    for length in _LENGTHS:
        most = min(length, reader.padding.max_tokens)
        with onnx_export.quiet():
            theirs = original(list(ODD_TEXTS), padding="max_length", max_length=most, truncation=True)
        ours = reader.read(ODD_TEXTS, length)
        for kind in ("input_ids", "attention_mask"):
            tokenizers.require_same_tokens(name, ODD_TEXTS, ours[kind].tolist(), theirs[kind])
