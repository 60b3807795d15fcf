"""Text encoders of CLIP. Dimensions: B rows, T tokens, C the encoder's width, P that of its projection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection


class ServedTextEncoder(nn.Module):
    """input_ids (B, T) int64 -> prompt_embeds (B, T, C) fp32: the last hidden state after the final layer norm."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        embeds: Tensor = self.encoder(input_ids=input_ids).last_hidden_state
        return embeds.float()


class ServedPooledEncoder(nn.Module):
    """input_ids (B, T) int64 -> text_embeds (B, P) fp32: the projected state of the first end token."""

    def __init__(self, encoder: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        embeds: Tensor = self.encoder(input_ids=input_ids).text_embeds
        return embeds.float()
