"""The transformer in torch: its weights from safetensors, and one prediction for many rows.

Architecture and forward pass are diffusers' `HiDreamImageTransformer2DModel` (diffusers 0.42,
models/transformers/transformer_hidream_image.py), eager and with torch's scaled dot product attention. It stays in
torch because its experts are chosen per token: how many rows an expert gets is known only while it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from darkroom.diffusion.torch_weights import assign_weights

if TYPE_CHECKING:
    from diffusers import HiDreamImageTransformer2DModel


def load_transformer(folder: Path, *, device: torch.device, dtype: torch.dtype) -> HiDreamImageTransformer2DModel:
    """The model of a folder in the diffusers layout, ready for `predict`.

    :param folder: has config.json and the weights as one or several safetensors.
    :raises OSError: config.json or the weights are not there.
    :raises RuntimeError: the weights are those of another model.
    """
    from diffusers import HiDreamImageTransformer2DModel

    with torch.device("meta"):  # no memory, and no random numbers for weights that are replaced at once
        model = HiDreamImageTransformer2DModel.from_config(HiDreamImageTransformer2DModel.load_config(folder))
    assign_weights(model, folder, device=device, dtype=dtype)
    return model


@torch.inference_mode()
def predict(model: HiDreamImageTransformer2DModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the model predicts for B rows, each with its own timestep and prompt.

    The sign is the model's own: the solvers are given its negative, as in diffusers'
    pipelines/hidream_image/pipeline_hidream_image.py.

    :param inputs: float tensors on any device, batch first:
        hidden_states (B, C, H, W), the latents; H and W are multiples of the patch size, and where they differ
        H x W is at most that of the config's `max_resolution`;
        timesteps (B,), 0..1000;
        encoder_hidden_states_t5 (B, S, D);
        encoder_hidden_states_llama3 (B, L, S, D), one for each of Llama's L layers;
        pooled_embeds (B, P), of both CLIPs one after the other.
    :returns: (B, C, H, W) float32, on the model's device.
    """
    weight = next(model.parameters())
    kind, device = weight.dtype, weight.device
    prediction: Tensor = model(
        hidden_states=inputs["hidden_states"].to(device, kind),
        timesteps=inputs["timesteps"].to(device),  # fp32: the sinusoids are computed before they are rounded
        encoder_hidden_states_t5=inputs["encoder_hidden_states_t5"].to(device, kind),
        encoder_hidden_states_llama3=inputs["encoder_hidden_states_llama3"].to(device, kind).transpose(0, 1),
        pooled_embeds=inputs["pooled_embeds"].to(device, kind),
        return_dict=False,
    )[0]
    return prediction.float()
