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


class ServedStatesEncoder(nn.Module):
    """input_ids (B, T) int64 -> prompt_embeds (B, T, C) fp32: the hidden state before the last layer."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        embeds: Tensor = self.encoder(input_ids=input_ids, output_hidden_states=True).hidden_states[-2]
        return embeds.float()


class ServedPooledStatesEncoder(nn.Module):
    """input_ids (B, T) int64 -> prompt_embeds (B, T, C) fp32, the hidden state before the last layer, and text_embeds
    (B, P) fp32, the projected state of the first end token."""

    def __init__(self, encoder: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.encoder(input_ids=input_ids, output_hidden_states=True)
        return answer.hidden_states[-2].float(), answer.text_embeds.float()
