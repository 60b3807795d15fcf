"""T5 and Llama as served graphs, torch modules around the originals: their tensors are those of
`darkroom.pipelines.hidream.networks`, fp32 outside whatever the precision inside.

Dimensions: B rows, T tokens, D widths of the encoders, L Llama's layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, T5EncoderModel


def additive(seen: Tensor, kind: torch.dtype) -> Tensor:
    """(B, 1, Q, K) bool, who sees whom -> what is added to the scores: 0, or as little as the type can hold.

    transformers passes masks of four dimensions on as they are (masking_utils.py); the code that it would make one of
    two dimensions with asks for values, which a graph cannot answer.
    """
    return torch.zeros(seen.shape, dtype=kind).masked_fill(~seen, torch.finfo(kind).min)


class ServedT5(nn.Module):
    """input_ids and attention_mask (B, T) int64 -> prompt_embeds (B, T, D) fp32: the last hidden state."""

    def __init__(self, encoder: T5EncoderModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        rows, tokens = input_ids.shape
        seen = attention_mask.bool()[:, None, None, :].expand(rows, 1, tokens, tokens)
        mask = additive(seen, self.encoder.dtype)
        embeds: Tensor = self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return embeds.float()


class ServedLlama(nn.Module):
    """input_ids and attention_mask (B, T) int64 -> hidden_states (B, L, T, D) fp32: what each layer gives.

    As `output_hidden_states` has it: of the last layer it is the normalised state.
    """

    def __init__(self, language_model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = language_model.model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = input_ids.shape[1]
        earlier = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        seen = earlier[None, None] & attention_mask.bool()[:, None, None, :]
        answer = self.model(
            input_ids=input_ids,
            attention_mask=additive(seen, self.model.dtype),
            use_cache=False,
            output_hidden_states=True,
        )
        return torch.stack(answer.hidden_states[1:], dim=1).float()
