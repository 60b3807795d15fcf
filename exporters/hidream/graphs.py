"""The served graphs as torch modules around the originals: their tensors are those of
`darkroom.pipelines.hidream.networks`, fp32 outside whatever the precision inside.

Dimensions: B rows, T tokens, P and D widths of the encoders, L Llama's layers, h x w latents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from exporters.sd15 import graphs

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModelWithProjection, LlamaForCausalLM, T5EncoderModel


def additive(seen: Tensor, kind: torch.dtype) -> Tensor:
    """(B, 1, Q, K) bool, who sees whom -> what is added to the scores: 0, or as little as the type can hold.

    transformers passes masks of four dimensions on as they are (masking_utils.py); the code that it would make one of
    two dimensions with asks for values, which a graph cannot answer.
    """
    return torch.zeros(seen.shape, dtype=kind).masked_fill(~seen, torch.finfo(kind).min)


class ServedClip(nn.Module):
    """input_ids (B, T) int64 -> text_embeds (B, P) fp32: the projected state of the first end token."""

    def __init__(self, encoder: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        embeds: Tensor = self.encoder(input_ids=input_ids).text_embeds
        return embeds.float()


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


class ServedVaeDecoder(nn.Module):
    """latents (B, 16, h, w) fp32 -> image (B, 8h, 8w, 3) uint8, as that of Stable Diffusion with a shift before it."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.decoder = graphs.ServedVaeDecoder(vae)
        # Upstream's z / scaling_factor + shift_factor is (z + shift) / scaling_factor.
        self.shift = (vae.config.shift_factor or 0.0) * vae.config.scaling_factor

    def forward(self, latents: Tensor) -> Tensor:
        image: Tensor = self.decoder(latents + self.shift)
        return image


def halved(network: nn.Module) -> nn.Module:
    """The network itself in fp16, as transformers loads it: but for the layers that it keeps in fp32 because they
    overflow (T5's), and for what is computed and not read, as the frequencies of Llama's rotary embedding."""
    kept = tuple(getattr(network, "_keep_in_fp32_modules", None) or ())
    computed = [
        (module, name, getattr(module, name))
        for module in network.modules()
        for name in module._non_persistent_buffers_set
    ]
    network.half()
    for module, name, buffer in computed:
        setattr(module, name, buffer)
    for name, module in network.named_modules():
        if name.rpartition(".")[2] in kept:
            module.float()
    return network
