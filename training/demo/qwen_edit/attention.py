"""The transformer's attention for training: diffusers' function, quicker forwards and backwards on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class PlainAttention:
    """In place of `QwenDoubleStreamAttnProcessor2_0` of diffusers 0.42 (models/transformers/transformer_qwenimage.py):
    norms and rotations in the type of the tokens and in few passes, rotations without complex numbers, attention as two
    products and a softmax."""

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
        texts, heads = encoder_hidden_states.shape[1], attn.heads
        of_image, of_text = image_rotary_emb
        query = torch.cat(
            [
                _rotated(attn.add_q_proj, attn.norm_added_q, encoder_hidden_states, of_text, heads),
                _rotated(attn.to_q, attn.norm_q, hidden_states, of_image, heads),
            ],
            dim=1,
        )
        key = torch.cat(
            [
                _rotated(attn.add_k_proj, attn.norm_added_k, encoder_hidden_states, of_text, heads),
                _rotated(attn.to_k, attn.norm_k, hidden_states, of_image, heads),
            ],
            dim=1,
        )
        value = torch.cat([attn.add_v_proj(encoder_hidden_states), attn.to_v(hidden_states)], dim=1)
        value = value.reshape(*value.shape[:2], heads, -1)
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))
        with torch.autocast(query.device.type, enabled=False):  # its softmax would be fp32
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            if encoder_hidden_states_mask is not None:
                padding = (~encoder_hidden_states_mask).to(scores.dtype) * -1e4
                scores = scores + functional.pad(padding, (0, hidden_states.shape[1]))[:, None, None]
            joint = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        return attn.to_out[0](joint[:, texts:]), attn.to_add_out(joint[:, :texts])


def _rotated(layer: Any, norm: Any, tokens: Tensor, rotation: Tensor, heads: int) -> Tensor:
    """Queries or keys (B, T, heads, d): projected, normalised and rotated.

    Neighbours are the parts of a complex number. Here all first parts stand before all second ones, which changes no
    product of a query and a key and needs no interleaving: the rows of the projection are taken in that order.

    :param rotation: (T, d/2) complex.
    """
    size = layer.out_features
    order = torch.arange(size, device=tokens.device).view(heads, -1, 2).transpose(1, 2).reshape(-1)
    states = functional.linear(tokens, layer.weight[order], layer.bias[order])
    first, second = states.view(*states.shape[:2], heads, 2, -1).unbind(-2)
    weights = norm.weight.view(-1, 2)
    real, imaginary = rotation.real[:, None], rotation.imag[:, None]
    by = [real * weights[:, 0], imaginary * weights[:, 1], real * weights[:, 1], imaginary * weights[:, 0]]
    a, b, c, d = (factor.to(states.dtype) for factor in by)  # (T, 1, d/2)
    turned = torch.cat([first * a - second * b, second * c + first * d], dim=-1)
    whole = states.view(*states.shape[:2], heads, -1)
    length = torch.linalg.vector_norm(whole, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.rsqrt(length.square() * (heads / size) + norm.eps)
    return turned * scale.to(turned.dtype)
