"""tokenizer.json: CLIP's tokenizer for the library `tokenizers`, which the loop can load without transformers.

Repositories of SD 1.5 carry vocab.json and merges.txt only; transformers makes the same tokenizer of either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from exporters import onnx_export
from exporters.checkpoint_files import plain_view
from exporters.errors import ExportError

FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
"""What a checkpoint's folder tokenizer/ may hold, all of which shape the tokens."""

# Accents in both normal forms, other scripts, emoji, blanks of all sorts, contractions, numbers, the special tokens
# themselves, a word that no vocabulary holds, nothing at all.
_ODD_TEXTS = (
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
    "pneumonoultramicroscopicsilicovolcanoconiosis_xyzzy-" * 4,
    "\x00\x07\x7f\ufeff\u200b\u202e\ufffd",
    "e" * 300,
    "a cat and a dog " * 60,
)


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


def present(root: Path) -> tuple[str, ...]:
    """The tokenizer's files of a checkpoint, by their path inside it.

    :raises ExportError: there is no tokenizer.
    """
    found = tuple(f"tokenizer/{name}" for name in FILES if (root / "tokenizer" / name).is_file())
    complete = "tokenizer/tokenizer.json" in found or {"tokenizer/vocab.json", "tokenizer/merges.txt"} <= set(found)
    if not complete:
        raise ExportError(f"{root.name} has no tokenizer/vocab.json with tokenizer/merges.txt, nor tokenizer.json.")
    return found


def convert(root: Path, *, longest: int) -> Converted:
    """The tokenizer of a checkpoint, compared with transformers' CLIPTokenizer on odd texts.

    :param longest: tokens that the text encoder can read.
    :raises ExportError: it is damaged, or `tokenizers` reads the result differently.
    """
    with onnx_export.quiet():
        from transformers import CLIPTokenizer

    try:
        with onnx_export.quiet(), plain_view(root / "tokenizer") as folder:
            original = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # `tokenizers` raises bare Exceptions
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{root.name}/tokenizer cannot be read as a CLIPTokenizer: {reason[:200]}") from None
    text = _plain(original.backend_tokenizer)
    _compare(root, Tokenizer.from_str(text), original)
    return Converted(
        json=text,
        max_tokens=min(original.model_max_length, longest),
        bos_token_id=_token(root, original, "bos_token_id"),
        eos_token_id=_token(root, original, "eos_token_id"),
        pad_token_id=_token(root, original, "pad_token_id"),
    )


def _plain(backend: Any) -> str:
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    return str(copy.to_str())


def _compare(root: Path, converted: Tokenizer, original: Any) -> None:
    with onnx_export.quiet():
        for text in _ODD_TEXTS:
            if converted.encode(text).ids != original(text, truncation=False, padding=False)["input_ids"]:
                raise ExportError(f"{root.name}: the converted tokenizer reads {text[:40]!r} differently.")


def _token(root: Path, original: Any, name: str) -> int:
    value = getattr(original, name)
    if value is None:
        raise ExportError(f"{root.name}/tokenizer has no {name}.")
    return int(value)
