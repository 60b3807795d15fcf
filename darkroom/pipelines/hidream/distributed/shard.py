"""One rank's part of the HiDream transformer, read from the checkpoint without ever holding the whole."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from torch import nn

from darkroom.parallel.checkpoint import ShardedCheckpoint, check_cuts, count_parameters, load_part
from darkroom.parallel.cuts import TP, local_heads
from darkroom.parallel.layers import GatheredLinear, RowLinear
from darkroom.parallel.layout import ALL, Layout, Place
from darkroom.parallel.program import Context, Group, Loaded
from darkroom.pipelines.hidream.distributed.layouts import EP, experts_of
from darkroom.pipelines.hidream.distributed.modules import ExpertFeedForward, FullWidthRMSNorm
from darkroom.pipelines.hidream.distributed.plan import CUTS
from darkroom.pipelines.hidream.transformer import predict

_NORMS = ("q_rms_norm", "k_rms_norm", "q_rms_norm_t", "k_rms_norm_t")
_OUTPUTS = ("to_out", "to_out_t")


def program(context: Context, arguments: Mapping[str, Any]) -> Loaded:
    """What ranks run (`darkroom.parallel.program`).

    :param arguments: folder, as of `load_shard`; dtype of torch, without "torch.".
    """
    model = load_shard(
        Path(arguments["folder"]),
        place=context.place,
        groups={name: context.group(name) for name in (ALL, TP)},
        device=context.device,
        dtype=getattr(torch, arguments["dtype"]),
    )
    return Loaded(run=partial(predict, model), parameters=count_parameters(model))


def load_shard(
    folder: Path, *, place: Place, groups: Mapping[str, Group], device: torch.device, dtype: torch.dtype
) -> HiDreamImageTransformer2DModel:
    """The model as `load_transformer` gives it, but with this rank's part of the parameters.

    Call it on all ranks together and with the same inputs; every one of them returns the whole prediction.

    :param folder: in the diffusers layout, config.json and safetensors.
    :param groups: the rank's own by TP and ALL. None for both is right where no forward pass is run.
    :raises InvalidInput: heads, experts or widths cannot be divided so.
    :raises OSError, KeyError: files or parameters that the config asks for are missing.
    """
    with ShardedCheckpoint(folder, CUTS) as checkpoint:
        with torch.device("meta"):
            model = HiDreamImageTransformer2DModel.from_config(checkpoint.config)
        _divide(model, checkpoint.config, place, groups)
        load_part(model, checkpoint, place, device=device, dtype=dtype)
    return model


def check_divisible(folder: Path, layout: Layout) -> None:
    """Whether the model can be divided so; reads headers only.

    :raises InvalidInput: heads, experts or a width leave a remainder; the message has the numbers.
    """
    place = Place(layout=layout, rank=0)
    with ShardedCheckpoint(folder, CUTS) as checkpoint:
        local_heads(checkpoint.config["num_attention_heads"], place)
        experts_of(place, checkpoint.config["num_routed_experts"])
        check_cuts(checkpoint, CUTS, layout)


def _divide(
    model: HiDreamImageTransformer2DModel, config: dict[str, Any], place: Place, groups: Mapping[str, Group]
) -> None:
    """Give every block the layers that join parts. The parameters are on the meta device and keep their names."""
    heads, experts = local_heads(config["num_attention_heads"], place), experts_of(place, config["num_routed_experts"])
    for wrapper in (*model.double_stream_blocks, *model.single_stream_blocks):
        block = wrapper.block
        attention = block.attn1
        attention.heads = heads
        for name in filter(lambda name: hasattr(attention, name), _NORMS):
            setattr(attention, name, FullWidthRMSNorm(getattr(attention, name), groups[TP]))
        for name in filter(lambda name: hasattr(attention, name), _OUTPUTS):
            setattr(attention, name, RowLinear(getattr(attention, name), groups[TP]))
        block.adaLN_modulation[1] = GatheredLinear(block.adaLN_modulation[1], groups[ALL])
        for name in filter(lambda name: hasattr(block, name), ("ff_i", "ff_t")):
            setattr(block, name, _divided_feed_forward(getattr(block, name), experts, groups[ALL], place.layout))


def _divided_feed_forward(layer: Any, experts: range, group: Group, layout: Layout) -> nn.Module:
    if isinstance(layer, MOEFeedForwardSwiGLU):
        return ExpertFeedForward(layer, experts, group, agree=layout.axes[EP] > 1)
    layer.w2 = RowLinear(layer.w2, group)
    dense: nn.Module = layer
    return dense
