"""Tokenizers of checkpoints for the library `tokenizers`, which the loop can load without transformers.

Many checkpoints carry vocab.json and merges.txt only; transformers makes the same tokenizer of either.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from exporters import onnx_export
from exporters.checkpoints.files import plain_view
from exporters.errors import ExportError

FILES = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model", "tokenizer_config.json",
         "special_tokens_map.json")  # fmt: skip
"""What a tokenizer's folder may hold, all of which shape the tokens."""

# Accents in both normal forms, other scripts, emoji, blanks of all sorts, contractions, numbers, the special tokens
# themselves, a word that no vocabulary holds, nothing at all.
ODD_TEXTS = (
    "",
    " ",
    "a photo of a cat",
    "A Photo, of A CAT!!!",
    "a\tcat\n\n on  a\u00a0mat\u3000",
    "café cafe\u0301 naïve Ångström ß ſ İ ǆ",
    "一隻貓坐在墊子上 のネコ 고양이",
    "кошка, γάτα — «гато»",
    "🐱🍕👩‍👩‍👧‍👦 ❤️ \U0001f1e9\U0001f1ea",
    "it's we're they'll I'd 've don't",
    "4k 8K 1920x1080 3.14 ½ ²",
    "(cat:1.3) [dog] {a|b} <lora:x:1> \\(plain\\)",
    "<|startoftext|> a <|endoftext|> b <|EndOfText|>",
    "<|startoftext|> a <|endoftext|> </s> <pad> <|eot_id|>",
    "pneumonoultramicroscopicsilicovolcanoconiosis_xyzzy-" * 4,
    "\x00\x07\x7f\ufeff\u200b\u202e\ufffd",
    "e" * 300,
    "a cat and a dog " * 60,
)
"""Texts on which a converted tokenizer is compared with its original."""


def present(root: Path, folder: Path) -> tuple[str, ...]:
    """The files of the tokenizer in `folder`, by their path inside the checkpoint `root`.

    :raises ExportError: there are none.
    """
    found = tuple(str((folder / name).relative_to(root)) for name in FILES if (folder / name).is_file())
    if not found:
        raise ExportError(f"{root.name} has no tokenizer in {folder.relative_to(root)}.")
    return found


def load(folder: Path, kind: str, name: str) -> Any:
    """transformers' own tokenizer of a folder.

    :param kind: its class.
    :param name: of the folder, for people.
    :raises ExportError: it is damaged.
    """
    with onnx_export.quiet():
        import transformers

    try:
        with onnx_export.quiet(), plain_view(folder) as view:
            return getattr(transformers, kind).from_pretrained(view, local_files_only=True)
    except Exception as error:  # `tokenizers` raises bare Exceptions
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{name} cannot be read as a {kind}: {reason[:200]}") from None


def plain(original: Any) -> Tokenizer:
    """The same tokenizer for `tokenizers`; it neither pads nor cuts off."""
    copy = Tokenizer.from_str(original.backend_tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def require_same_tokens(
    name: str, texts: Sequence[str], ours: Sequence[list[int]], theirs: Sequence[list[int]]
) -> None:
    """Compare what a converted tokenizer makes of texts with what its original makes of them.

    :raises ExportError: it reads a text differently.
    """
    for text, mine, other in zip(texts, ours, theirs, strict=True):
        if mine != other:
            raise ExportError(f"{name}: the converted tokenizer reads {text[:40]!r} differently.")
