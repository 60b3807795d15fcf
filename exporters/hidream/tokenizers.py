"""tokenizer_*.json: the four tokenizers for the library `tokenizers`, which the loop can load without transformers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from darkroom.pipelines.hidream.checkpoint import Padding
from darkroom.pipelines.hidream.prompts import Reader
from exporters import onnx_export
from exporters.checkpoint_files import plain_view
from exporters.errors import ExportError
from exporters.hidream import weights
from exporters.sd15.weights import Component

FILES = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model", "tokenizer_config.json",
         "special_tokens_map.json")  # fmt: skip
"""What a tokenizer's folder may hold, all of which shape the tokens."""
CLIP_LONGEST = 218
"""Tokens that diffusers has CLIP read of a prompt (pipelines/hidream_image/pipeline_hidream_image.py)."""
_LENGTHS = (16, 128)
_TEXTS = (
    "",
    " ",
    "a photo of a cat",
    "A Photo, of A CAT!!!",
    "café cafe\u0301 naïve ß İ",
    "一隻貓坐在墊子上 のネコ 고양이 кошка",
    "🐱🍕👩‍👩‍👧‍👦 ❤️",
    "it's we're 4k 1920x1080 ½",
    "<|startoftext|> a <|endoftext|> </s> <pad> <|eot_id|>",
    "\x00\x07\ufeff\u200b\ufffd",
    "e" * 300,
    "a cat and a dog " * 60,
)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A tokenizer for the loop.

    :param json: the content of its file; it neither pads nor cuts off.
    :param padding: the fields of a `Padding`.
    """

    json: str
    padding: dict[str, int | str]


def present(checkpoint: weights.Checkpoint, encoder: str) -> tuple[str, ...]:
    """The files of a tokenizer, by their path inside its checkpoint.

    :raises ExportError: there are none.
    """
    folder = checkpoint.tokenizer(encoder)
    root = checkpoint.llama_root if encoder == "llama" and checkpoint.llama_root else checkpoint.root
    found = tuple(str((folder / name).relative_to(root)) for name in FILES if (folder / name).is_file())
    if not found:
        raise ExportError(f"{root.name} has no tokenizer in {folder.relative_to(root)}.")
    return found


def convert(checkpoint: weights.Checkpoint, encoder: str, part: Component) -> Converted:
    """The tokenizer of an encoder, compared with transformers' own on odd texts.

    :param part: the encoder, which knows how many tokens it can read.
    :raises ExportError: it is damaged, or `tokenizers` reads the result differently.
    """
    with onnx_export.quiet():
        import transformers

    folder, kind = checkpoint.tokenizer(encoder), weights.TOKENIZERS[encoder][1]
    try:
        with onnx_export.quiet(), plain_view(folder) as view:
            original = getattr(transformers, kind).from_pretrained(view, local_files_only=True)
    except Exception as error:  # `tokenizers` raises bare Exceptions
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{folder.name} cannot be read as a {kind}: {reason[:200]}") from None
    if encoder == "llama":
        original.pad_token = original.eos_token  # as HiDreamImagePipeline does
    if original.padding_side != "right" or original.pad_token_id is None:
        raise ExportError(f"{folder.name}: prompts must be padded on the right, with a token for it.")
    plain = Tokenizer.from_str(original.backend_tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    padding = Padding(
        max_tokens=_longest(encoder, part.config, original),
        pad_token=str(original.pad_token),
        pad_token_id=int(original.pad_token_id),
    )
    _compare(folder, Reader(tokenizer=plain, padding=padding), original)
    return Converted(json=plain.to_str(), padding=asdict(padding))


def _longest(encoder: str, config: dict[str, Any], original: Any) -> int:
    readable = int(config.get("max_position_embeddings", 2**16))
    # Upstream asks CLIP's tokenizer for no limit of its own: it says 77, and the encoder reads more.
    return min(readable, CLIP_LONGEST if encoder.startswith("clip") else int(original.model_max_length))


def _compare(folder: Path, reader: Reader, original: Any) -> None:
    for length in _LENGTHS:
        most = min(length, reader.padding.max_tokens)
        with onnx_export.quiet():
            theirs = original(list(_TEXTS), padding="max_length", max_length=most, truncation=True)
        ours = reader.read(_TEXTS, length)
        for name in ("input_ids", "attention_mask"):
            if ours[name].tolist() != theirs[name]:
                raise ExportError(f"{folder.name}: the converted tokenizer reads some texts differently.")
