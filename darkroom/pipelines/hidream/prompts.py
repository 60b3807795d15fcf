"""Encodes prompts for the transformer with four tokenizers and four text encoders.

Follows `encode_prompt` of diffusers 0.42, pipelines/hidream_image/pipeline_hidream_image.py: each encoder reads the
prompt once, cut off or padded to one length.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from darkroom.pipelines.hidream.checkpoint import ENCODERS, HidreamCheckpointInfo, Padding, tokenizer_name
from darkroom.serving.networks import Array, Network, Tensors


@dataclass(frozen=True, kw_only=True)
class Embeds:
    """The embeddings of prompts as the transformer takes them, a row per prompt, fp32.

    :param t5: (n, tokens, width).
    :param llama: (n, layers, tokens, width).
    :param pooled: (n, width), of both CLIPs.
    """

    t5: Array
    llama: Array
    pooled: Array


@dataclass(frozen=True, kw_only=True)
class PromptTokenizer:
    """A tokenizer that does not pad or truncate by itself, and the padding to apply."""

    tokenizer: Tokenizer
    padding: Padding

    def read(self, texts: Sequence[str], length: int) -> Tensors:
        """input_ids and attention_mask (n, tokens) int64, `length` tokens or as many as the encoder can read."""
        length = min(length, self.padding.max_tokens)
        read = [self._read(text, length) for text in texts]
        return {
            "input_ids": np.array([one.ids for one in read], np.int64),
            "attention_mask": np.array([one.attention_mask for one in read], np.int64),
        }

    def _read(self, text: str, length: int) -> Encoding:
        # What enable_truncation and enable_padding would do, but they set the tokenizer for all requests.
        words = self.tokenizer.encode(text, add_special_tokens=False)
        words.truncate(length - self.tokenizer.num_special_tokens_to_add(False))
        encoding: Encoding = self.tokenizer.post_process(words)
        encoding.pad(length, pad_id=self.padding.pad_token_id, pad_token=self.padding.pad_token, direction="right")
        return encoding


def load_prompt_tokenizers(folder: Path, checkpoint: HidreamCheckpointInfo) -> dict[str, PromptTokenizer]:
    """The tokenizers of all encoders, from the files beside pipeline.json."""
    return {
        encoder: PromptTokenizer(
            tokenizer=Tokenizer.from_file(str(folder / tokenizer_name(encoder))),
            padding=Padding(**checkpoint.padding[encoder]),  # type: ignore[arg-type]
        )
        for encoder in ENCODERS
    }


async def encode_prompts(
    texts: Sequence[str], length: int, readers: Mapping[str, PromptTokenizer], encoders: Mapping[str, Network]
) -> Embeds:
    """All four encoders read all texts, at the same time.

    :param length: of a prompt in tokens, begin and end included.
    """
    clip_l, clip_g, t5, llama = (readers[name].read(texts, length) for name in ENCODERS)
    answers = await asyncio.gather(
        encoders["clip_l"]({"input_ids": clip_l["input_ids"]}),
        encoders["clip_g"]({"input_ids": clip_g["input_ids"]}),
        encoders["t5"](t5),
        encoders["llama"](llama),
    )
    pooled = np.concatenate([answers[0]["text_embeds"], answers[1]["text_embeds"]], axis=-1)
    return Embeds(t5=answers[2]["prompt_embeds"], llama=answers[3]["hidden_states"], pooled=pooled)
