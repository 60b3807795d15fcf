"""A small vocabulary for the real CLIPTokenizer: a word of the grammar is one token, any other is spelled out."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from darkroom.files import write_atomically
from training.glyphs import NAMES
from training.styles import STYLES
from training.world import BACKGROUNDS

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
WORDS: tuple[str, ...] = (
    *("a", "an", "of", "on", "the", "and", "left", "right", "above", "below", "small", "large", "background"),
    *STYLES,
    *BACKGROUNDS,
    *NAMES,
)
_END = "</w>"


def byte_characters() -> list[str]:
    """The printable character that stands for each byte, in GPT-2's order (openai/gpt-2, bytes_to_unicode)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + index) for index in range(len(others))]


def train_merges(words: tuple[str, ...], end: str = _END) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until every word is one piece (Sennrich et al. 2016, algorithm 1).

    :param end: what the last piece of a word ends with.
    """
    pieces = [[*word[:-1], word[-1] + end] for word in dict.fromkeys(words)]
    merges: list[tuple[str, str]] = []
    while any(len(word) > 1 for word in pieces):
        counts = Counter(pair for word in pieces for pair in pairwise(word))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        pieces = [_merged(word, best) for word in pieces]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for piece in word:
        if result and (result[-1], piece) == pair:
            result[-1] += piece
        else:
            result.append(piece)
    return result


def write_tokenizer(folder: Path) -> None:
    """Write the files of a CLIPTokenizer, in the layout of SD 1.5's tokenizer folder."""
    characters = byte_characters()
    merges = train_merges(WORDS)
    tokens = [*characters, *(c + _END for c in characters), *(a + b for a, b in merges), BOS, EOS]
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "do_lower_case": True, **special}
    merge_lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    files = {
        "vocab.json": json.dumps({token: index for index, token in enumerate(tokens)}, ensure_ascii=False),
        "merges.txt": "\n".join(merge_lines) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(special, indent=2) + "\n",
    }
    for name, text in files.items():
        write_atomically(folder / name, text.encode())
