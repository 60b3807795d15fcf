"""Networks in half precision."""

from __future__ import annotations

from torch import nn


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
