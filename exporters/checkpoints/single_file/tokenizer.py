"""CLIP's tokenizer, which checkpoints of Stable Diffusion share and single files do not carry.

The merges are those of OpenAI's CLIP (https://github.com/openai/CLIP, clip/simple_tokenizer.py, which reads the first
48894 of bpe_simple_vocab_16e6.txt.gz); the vocabulary follows from them.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from darkroom.files import write_atomically

SIZE = 49408
"""Of the vocabulary."""
_MERGES = Path(__file__).with_name("clip_merges.txt.gz")
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path, pad: str) -> None:
    """Write the files of transformers' CLIPTokenizer.

    :param pad: the token that prompts are padded with.
    """
    merges = gzip.decompress(_MERGES.read_bytes()).decode()
    special = {"bos_token": _BEGIN, "eos_token": _END, "unk_token": _END, "pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    files = {
        "vocab.json": json.dumps(_vocabulary(merges), ensure_ascii=False),
        "merges.txt": merges,
        "tokenizer_config.json": json.dumps(config, indent=2),
        "special_tokens_map.json": json.dumps(special, indent=2),
    }
    for name, text in files.items():
        write_atomically(folder / name, text.encode())


def _vocabulary(merges: str) -> dict[str, int]:
    """Characters for the 256 bytes, the same at the end of a word, the merges, begin and end."""
    characters = sorted(ByteLevel.alphabet())
    joined = [line.replace(" ", "") for line in merges.splitlines()[1:]]
    tokens = [*characters, *(f"{character}</w>" for character in characters), *joined, _BEGIN, _END]
    return {token: number for number, token in enumerate(tokens)}
