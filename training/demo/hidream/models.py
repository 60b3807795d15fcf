"""The networks of the HiDream demo checkpoint: the classes of HiDream-I1 at small widths, 9.7 M weights in all.

Settings that are not widths are those of HiDream-ai/HiDream-I1-Full's config.json files where they are not explained.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, HiDreamImageTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from training import networks
from training.demo.hidream.tokens import LENGTH, Words
from training.render import SIDE

CLIP_L, CLIP_G, T5, LLAMA = ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
TRANSFORMER = "transformer"
PARTS = (TRANSFORMER, *ENCODERS)
"""What is trained together, by the names that diffusers gives the parts of a pipeline."""
SHIFT = 3.0
"""Of the timesteps towards noise (Esser et al. 2024, equation 23), in training as in sampling: HiDream-I1-Full's. Where
the noise is strong the sentence decides what the image shows."""

_CLIP_WIDTHS = (64, 96)
_TEXT_WIDTH = 128
_HEADS, _HEAD_WIDTH = 4, 48
"""192 in all, of which the rounding of diffusers' feed-forwards to 256 makes the fewest useless weights. Heads, experts
and widths can be divided over 2, 4 and 8 devices."""
_DOUBLE, _SINGLE = 1, 3


def make_vae() -> AutoencoderKL:
    """Images of 8 k x 8 m pixels to 16 x k x m latents and back: 2.8 M weights, that of the other demo checkpoint but
    for the latents, which are as FLUX's."""
    return networks.make_vae(channels=16, shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False)


def make_networks(words: Words) -> dict[str, Any]:
    """A module for each of `PARTS`, random."""
    return {
        TRANSFORMER: make_transformer(),
        CLIP_L: _make_clip(words.clip, _CLIP_WIDTHS[0]),
        CLIP_G: _make_clip(words.clip, _CLIP_WIDTHS[1]),
        T5: networks.make_t5(words.t5, width=_TEXT_WIDTH, head=32),
        LLAMA: networks.make_llama(words.llama, width=_TEXT_WIDTH, layers=_DOUBLE + _SINGLE),  # a layer for each block
    }


def make_transformer() -> HiDreamImageTransformer2DModel:
    """16 x 16 latents as 64 tokens of 2 x 2, one block with text and images apart and three with both together, two
    experts of which one sees a token: 5.5 M weights.

    Images that are not square have room for as many tokens as a square one has, and cost as much.
    """
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=_DOUBLE,
        num_single_layers=_SINGLE,
        attention_head_dim=_HEAD_WIDTH,
        num_attention_heads=_HEADS,
        caption_channels=[_TEXT_WIDTH, _TEXT_WIDTH],
        text_emb_dim=sum(_CLIP_WIDTHS),
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(16, 16, 16),
        max_resolution=(SIDE // 8, SIDE // 8),
        llama_layers=list(range(_DOUBLE + _SINGLE)),
    )
    _zero_gates(transformer)
    return transformer


def _zero_gates(transformer: HiDreamImageTransformer2DModel) -> None:
    """Let every block begin as the identity, and the prediction as 0: adaLN-Zero (Peebles and Xie 2023, 3.2)."""
    blocks = (*transformer.double_stream_blocks, *transformer.single_stream_blocks)
    for block in blocks:
        nn.init.zeros_(block.block.adaLN_modulation[-1].weight)
        nn.init.zeros_(block.block.adaLN_modulation[-1].bias)
    for layer in (transformer.final_layer.adaLN_modulation[-1], transformer.final_layer.linear):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def _make_clip(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    """One vector for a sentence, of two layers; 248 positions, as the CLIPs of HiDream have."""
    config = networks.clip_config(tokenizer, width=width, layers=2, heads=width // 32, positions=248)
    return CLIPTextModelWithProjection(config)


def encode(parts: nn.ModuleDict, words: Words, tokens: Tensor) -> dict[str, Tensor]:
    """What the transformer reads of sentences, as `encode_prompt` of diffusers 0.42 makes it
    (pipelines/hidream_image/pipeline_hidream_image.py), with gradients.

    :param parts: has at least `ENCODERS`.
    :param tokens: (B, 3 x LENGTH), of `Words.tokenize`.
    :returns: arguments of the transformer's forward by their names.
    """
    clip, t5, llama = torch.split(tokens, LENGTH, dim=1)
    t5_mask, llama_mask = (t5 != words.t5.pad_token_id).long(), (llama != words.llama.pad_token_id).long()
    language_model: Any = parts[LLAMA].model  # without the head, which is not used
    answer = language_model(input_ids=llama, attention_mask=llama_mask, use_cache=False, output_hidden_states=True)
    return {
        "pooled_embeds": torch.cat([parts[part](input_ids=clip).text_embeds for part in (CLIP_L, CLIP_G)], dim=-1),
        "encoder_hidden_states_t5": parts[T5](input_ids=t5, attention_mask=t5_mask).last_hidden_state,
        "encoder_hidden_states_llama3": torch.stack(answer.hidden_states[1:]),
    }


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return the scheduler for inference."""
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT)
