"""The LoRA inside a UNet: PEFT's layers, and their weights by the names that files have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from darkroom.errors import Conflict
from darkroom.request.training import TrainingOptions

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The linear layers of attention, by the end of their names."""


def add_adapter(unet: Any, options: TrainingOptions) -> None:
    """Add trainable low-rank layers to the attention of a frozen UNet; they change nothing at first.

    The first weights are random numbers of the seed, and fp32 whatever the UNet is.

    :raises Conflict: PEFT is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise Conflict("Training needs PEFT, which is not installed: pip install 'darkroom[train]'.") from None
    torch.manual_seed(options.seed)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.used_alpha,  # type: ignore[arg-type]  # PEFT divides it by the rank, whatever number it is
        init_lora_weights="gaussian",
        target_modules=list(TARGETS),
    )
    unet.requires_grad_(False)
    unet.add_adapter(config)
    for _, weight in trained(unet):
        weight.data = weight.data.float()


def trained(unet: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the trainable weights by their names in the UNet."""
    return [(name, weight) for name, weight in unet.named_parameters() if weight.requires_grad]


def weights_of(unet: nn.Module) -> dict[str, Tensor]:
    """Names such as "down_blocks...to_q.lora_A.weight" -> copies of the weights, float32 on the CPU, sorted by name."""
    named = {name.replace(".default.", "."): weight.detach() for name, weight in trained(unet)}
    return {name: weight.to("cpu", torch.float32, copy=True).contiguous() for name, weight in sorted(named.items())}


def load_weights(unet: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put weights of `weights_of` back in place.

    :raises KeyError: a name is missing.
    """
    with torch.no_grad():
        for name, weight in trained(unet):
            weight.copy_(weights[name.replace(".default.", ".")])
