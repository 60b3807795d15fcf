"""Attention over the rows of a batch, each with positions and a mask of its own, for diffusers' Qwen-Image blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from darkroom.diffusion.attention import CHOSEN_BY_TORCH, Attention


class RowAttention:
    """Attention over text and images together, with rotary embeddings of each row: a processor for diffusers' blocks.

    As `QwenDoubleStreamAttnProcessor2_0`, whose rotary embeddings are one for all rows.

    :param attention: what computes it.
    """

    def __init__(self, attention: Attention = CHOSEN_BY_TORCH) -> None:
        self._attention = attention

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, S, D) image and (B, T, D) text tokens -> the same.

        :param encoder_hidden_states_mask: (B, 1, 1, T + S), True for what is no padding.
        :param image_rotary_emb: (B, T + S, head / 2) complex.
        """
        from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

        texts, head = encoder_hidden_states.shape[1], attn.inner_dim // attn.heads

        def heads(text: Tensor, image: Tensor, text_norm: Any, image_norm: Any) -> Tensor:
            split = [states.reshape(*states.shape[:2], -1, head) for states in (text, image)]
            return torch.cat([text_norm(split[0]), image_norm(split[1])], dim=1).transpose(1, 2)

        def same(states: Tensor) -> Tensor:
            return states

        text, image = encoder_hidden_states, hidden_states
        query = heads(attn.add_q_proj(text), attn.to_q(image), attn.norm_added_q, attn.norm_q)
        key = heads(attn.add_k_proj(text), attn.to_k(image), attn.norm_added_k, attn.norm_k)
        value = heads(attn.add_v_proj(text), attn.to_v(image), same, same)
        query = apply_rotary_emb_qwen(query, image_rotary_emb, use_real=False)
        key = apply_rotary_emb_qwen(key, image_rotary_emb, use_real=False)
        seen = self._attention(query, key, value, encoder_hidden_states_mask)
        states = seen.transpose(1, 2).flatten(2, 3).to(query.dtype)
        return attn.to_out[0](states[:, texts:]), attn.to_add_out(states[:, :texts])


def with_rows(model: Any) -> Any:
    """Make a transformer or a ControlNet of Qwen-Image ready for rows: their attention, and positions, which are no
    weights."""
    from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope

    model.pos_embed = QwenEmbedRope(theta=10000, axes_dim=list(model.config.axes_dims_rope), scale_rope=True)
    model.set_attn_processor(RowAttention())
    return model
