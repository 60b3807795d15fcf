"""Prompts -> what the UNets read of them: two tokenizers, two text encoders.

Follows `encode_prompt` of diffusers 0.42, pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py, for prompts of
one chunk. Longer ones are chunks laid end to end, with the pooled embedding of the first one, as in the common web UI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as HuggingFaceTokenizer

from darkroom.pipelines.sdxl.checkpoint import TOKENIZERS, ClipTokens, SdxlCheckpointInfo
from darkroom.prompts.clip import Tokenizer, chunk, common_length, encode_chunks
from darkroom.serving.networks import Array, Network


@dataclass(frozen=True, kw_only=True)
class PromptTokenizer:
    """A tokenizer and its special tokens."""

    tokenizer: Tokenizer
    tokens: ClipTokens


@dataclass(frozen=True, kw_only=True)
class Embeds:
    """What the UNets read of the prompts, float32: a row for each text.

    :param prompt_embeds: (n, tokens, width): of both encoders, one beside the other.
    :param text_embeds: (n, width of the projection): the pooled embedding of the second encoder.
    :param refiner_embeds: (n, tokens, width): `prompt_embeds` of the second encoder alone.
    """

    prompt_embeds: Array
    text_embeds: Array
    refiner_embeds: Array

    def after_zeros(self) -> Embeds:
        """A row of zeros before these rows, as that of an absent negative prompt."""
        return Embeds(
            prompt_embeds=_after_zeros(self.prompt_embeds),
            text_embeds=_after_zeros(self.text_embeds),
            refiner_embeds=_after_zeros(self.refiner_embeds),
        )


def _after_zeros(rows: Array) -> Array:
    return np.concatenate([np.zeros_like(rows[:1]), rows])


def load_prompt_tokenizers(folder: Path, checkpoint: SdxlCheckpointInfo) -> list[PromptTokenizer]:
    """The readers of both encoders, from the files beside pipeline.json."""
    return [
        PromptTokenizer(tokenizer=HuggingFaceTokenizer.from_file(str(folder / name)), tokens=ClipTokens(**tokens))
        for name, tokens in zip(TOKENIZERS, checkpoint.tokens, strict=True)
    ]


async def encode_prompts(
    texts: Sequence[str], readers: Sequence[PromptTokenizer], encoders: Sequence[Network]
) -> Embeds:
    """Both encoders read all texts, at the same time. All texts get as many chunks as the longest one has.

    :raises InvalidInput: a weight is out of range, or there are too many chunks.
    """
    parts = [[chunk(text, reader.tokenizer, reader.tokens) for text in texts] for reader in readers]
    length = max(map(common_length, parts))
    first, second = await asyncio.gather(
        *(
            encode_chunks(several, reader.tokens, encoder, length=length)
            for several, reader, encoder in zip(parts, readers, encoders, strict=True)
        )
    )
    assert second.text_embeds is not None
    return Embeds(
        prompt_embeds=np.concatenate([first.prompt_embeds, second.prompt_embeds], axis=-1),
        text_embeds=second.text_embeds,
        refiner_embeds=second.prompt_embeds,
    )
