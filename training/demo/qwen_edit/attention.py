"""The transformer's attention for training: diffusers' function, quicker forwards and backwards on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class PlainAttention:
    """In place of `QwenDoubleStreamAttnProcessor2_0` of diffusers 0.42 (models/transformers/transformer_qwenimage.py):
    rotations without complex numbers, which have to be fp32, and attention as two products and a softmax."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, I, D) of images and (B, T, D) of text -> the same.

        :param encoder_hidden_states_mask: (B, T) bool, false for padding; None = there is none.
        :param image_rotary_emb: complex (I, d/2) and (T, d/2).
        """
        assert image_rotary_emb is not None
        texts = encoder_hidden_states.shape[1]
        of_text = [attn.add_q_proj, attn.add_k_proj, attn.add_v_proj]
        of_image = [attn.to_q, attn.to_k, attn.to_v]
        text = [layer(encoder_hidden_states).unflatten(-1, (attn.heads, -1)) for layer in of_text]
        image = [layer(hidden_states).unflatten(-1, (attn.heads, -1)) for layer in of_image]
        text[0], text[1] = attn.norm_added_q(text[0]), attn.norm_added_k(text[1])
        image[0], image[1] = attn.norm_q(image[0]), attn.norm_k(image[1])
        rotation = torch.cat([image_rotary_emb[1], image_rotary_emb[0]])
        query, key, value = (torch.cat(both, dim=1).transpose(1, 2) for both in zip(text, image, strict=True))
        query, key = _rotated(query, rotation), _rotated(key, rotation)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if encoder_hidden_states_mask is not None:
            padding = (~encoder_hidden_states_mask).to(scores.dtype) * -1e4
            scores = scores + functional.pad(padding, (0, image[0].shape[1]))[:, None, None]
        joint = (scores.softmax(dim=-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return attn.to_out[0](joint[:, texts:]), attn.to_add_out(joint[:, :texts])


def _rotated(tokens: Tensor, rotation: Tensor) -> Tensor:
    """(B, heads, T, d), of which neighbours are the parts of complex numbers, times (T, d/2) complex numbers."""
    cosine = rotation.real.repeat_interleave(2, dim=-1).to(tokens.dtype)
    sine = torch.stack([-rotation.imag, rotation.imag], dim=-1).flatten(-2).to(tokens.dtype)
    turned = tokens.reshape(*tokens.shape[:-1], -1, 2).flip(-1).flatten(-2)
    made: Tensor = tokens * cosine + turned * sine
    return made
