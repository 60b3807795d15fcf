"""The networks of the demo checkpoint: the classes of Qwen-Image-Edit-2509 at small widths, 12 M weights in all.

Settings that are not widths are those of Qwen/Qwen-Image-Edit-2509's config.json files where they are not explained.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from training.demo.qwen_edit.tokens import DROPPED, END, IMAGE, PAD, VIDEO, VISION_END, VISION_START, make_tokenizer

TRANSFORMER, TEXT_ENCODER = PARTS = ("transformer", "text_encoder")
"""What is trained together, by the names that diffusers gives the parts of a pipeline."""
CHANNELS, PATCH = 16, 2
"""Of the latents, and how many of them a token has along each axis."""
SHIFT = 3.0
"""Of the timesteps towards noise (Esser et al. 2024, equation 23), in training as in sampling, whatever the size: where
the noise is strong the sentence decides what the picture shows."""
THUMBNAIL = 56
"""Side of what the text encoder sees of a picture, in pixels: 4 x 4 patches, of which 2 x 2 make a token."""
_TEXT_WIDTH, _TEXT_LAYERS = 128, 3
_HEADS, _HEAD_WIDTH, _BLOCKS = 4, 48, 5


def make_vae() -> AutoencoderKLQwenImage:
    """Images of 8 k x 8 m pixels to 16 x k x m latents and back: 4.2 M weights.

    Two thirds of them belong to frames before a single one. They are zeros, as there is nothing before it.
    """
    vae = AutoencoderKLQwenImage(
        base_dim=12,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 4, 8],
        num_res_blocks=1,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )
    for name, weight in vae.named_parameters():
        if "time_conv" in name:
            nn.init.zeros_(weight)
        elif weight.ndim == 5:
            nn.init.zeros_(weight[:, :, :-1])
    return vae


def make_networks() -> dict[str, Any]:
    """A module for each of `PARTS`, random."""
    return {TRANSFORMER: make_transformer(), TEXT_ENCODER: make_text_encoder()}


def make_transformer() -> QwenImageTransformer2DModel:
    """16 x 16 latents as 64 tokens, and as many for each picture that is given: 6.9 M weights.

    Every block begins as the identity, and the prediction as 0: adaLN-Zero (Peebles and Xie 2023, section 3.2).
    """
    transformer = QwenImageTransformer2DModel(
        patch_size=PATCH,
        in_channels=CHANNELS * PATCH**2,
        out_channels=CHANNELS,
        num_layers=_BLOCKS,
        attention_head_dim=_HEAD_WIDTH,
        num_attention_heads=_HEADS,
        joint_attention_dim=_TEXT_WIDTH,
        axes_dims_rope=(8, 20, 20),
    )
    last = (transformer.norm_out.linear, transformer.proj_out)
    gates = [layer for block in transformer.transformer_blocks for layer in (block.img_mod[-1], block.txt_mod[-1])]
    for layer in (*gates, *last):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return transformer


def make_text_encoder() -> Qwen2_5_VLForConditionalGeneration:
    """Three layers that read text, two that look at pictures; the head, which is not used, is the embedding."""
    tokenizer = make_tokenizer()
    ids = {
        token: tokenizer.convert_tokens_to_ids(token) for token in (PAD, END, IMAGE, VIDEO, VISION_START, VISION_END)
    }
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": _TEXT_WIDTH,
            "intermediate_size": 2 * _TEXT_WIDTH,
            "num_hidden_layers": _TEXT_LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "bos_token_id": ids[PAD],
            "eos_token_id": ids[END],
            "pad_token_id": ids[PAD],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": _TEXT_WIDTH,
            "fullatt_block_indexes": [1],
            "window_size": 112,
        },
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """For making images; its shift is the same for every size."""
    return FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        max_image_seq_len=8192,
        base_shift=math.log(SHIFT),
        max_shift=math.log(SHIFT),
        shift_terminal=0.02,
        use_dynamic_shifting=True,
    )


def encode(encoder: Qwen2_5_VLForConditionalGeneration, tokens: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """What the transformer reads of prompts and their pictures, with gradients: `_get_qwen_prompt_embeds` of diffusers
    0.42 (pipelines/qwenimage/pipeline_qwenimage_edit_plus.py), with image tokens where Qwen2.5-VL has them.

    :param tokens: (B, T) of `tokenize`, all with the same number of pictures.
    :param patches: (B, N, 16, 1176) of `patches_of`, of N pictures for each prompt.
    :returns: states (B, T - 64, 128), and a mask of them (B, T - 64) bool.
    """
    mask = tokens != encoder.config.text_config.pad_token_id
    grid = torch.tensor([[1, 4, 4]], device=tokens.device)
    model = encoder.model
    row = tokens[:1]
    positions, _ = model.get_rope_index(
        row, (row == encoder.config.image_token_id).int(), grid.expand(patches.shape[1], 3)
    )
    states = model(
        input_ids=tokens,
        attention_mask=mask.long(),
        position_ids=positions.expand(3, len(tokens), -1),  # pictures come first: every row has the same
        pixel_values=patches.flatten(0, 2),
        image_grid_thw=grid.expand(patches.shape[0] * patches.shape[1], 3),
        use_cache=False,
    ).last_hidden_state
    return states[:, DROPPED:], mask[:, DROPPED:]


def patches_of(thumbnails: Tensor) -> Tensor:
    """(..., 56, 56, 3) uint8 -> (..., 16, 1176): what Qwen2VLImageProcessor of transformers makes of them."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    mean, std = (torch.tensor(values, device=thumbnails.device) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    values = (thumbnails.float() / 255 - mean) / std
    lead = values.shape[:-3]
    blocks = values.reshape(-1, 2, 2, 14, 2, 2, 14, 3)  # rows: group, in the group, pixel; then columns the same
    blocks = blocks.permute(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None].expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    return blocks.reshape(*lead, 16, 3 * 2 * 14 * 14)


def as_tokens(latents: Tensor) -> Tensor:
    """(B, 16, h, w) -> (B, h/2 x w/2, 64): `_pack_latents` of diffusers' pipeline."""
    batch, channels, height, width = latents.shape
    tokens = latents.view(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5)
    return tokens.reshape(batch, -1, channels * PATCH**2)
