"""One rank's part of the transformer and of its ControlNet, read without ever holding the whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import QwenImageControlNetModel, QwenImageTransformer2DModel
from torch import Tensor

from darkroom.diffusion.attention import Attention
from darkroom.diffusion.merged_lora import LORA_NAME
from darkroom.errors import InvalidInput
from darkroom.parallel.checkpoint import ShardedCheckpoint, check_cuts, count_parameters, load_part
from darkroom.parallel.cuts import local_heads
from darkroom.parallel.layers import GatheredLinear, RowLinear
from darkroom.parallel.layout import ALL, Layout, Place
from darkroom.parallel.program import Context, Group, Loaded
from darkroom.pipelines.qwen_edit.attention import RowAttention, with_rows
from darkroom.pipelines.qwen_edit.distributed.plan import CUTS
from darkroom.pipelines.qwen_edit.networks import CONTROLNET_FOLDER
from darkroom.pipelines.qwen_edit.transformer import predict

Model = TypeVar("Model", QwenImageTransformer2DModel, QwenImageControlNetModel)


def program(context: Context, arguments: Mapping[str, Any]) -> Loaded:
    """What ranks run (`darkroom.parallel.program`).

    :param arguments: folder, as of `load_shard`; dtype of torch, without "torch."; attention: names of kernels.
    """
    folder, dtype = Path(arguments["folder"]), getattr(torch, arguments["dtype"])
    place: dict[str, Any] = {
        "place": context.place,
        "group": context.group(ALL),
        "device": context.device,
        "dtype": dtype,
    }
    model = load_shard(QwenImageTransformer2DModel, folder, **place)
    head = model.config.attention_head_dim
    attention = Attention.probed(arguments["attention"], device=context.device, dtype=dtype, head=head)
    controlnet, beside = None, folder / CONTROLNET_FOLDER
    if beside.is_dir():
        controlnet = load_shard(QwenImageControlNetModel, beside, **place)
    held = [model] if controlnet is None else [model, controlnet]
    for one in held:
        one.set_attn_processor(RowAttention(attention))

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        return predict(model, inputs, controlnet)

    return Loaded(run=run, parameters=sum(map(count_parameters, held)))


def load_shard(
    kind: type[Model], folder: Path, *, place: Place, group: Group, device: torch.device, dtype: torch.dtype
) -> Model:
    """The model with this rank's part of the parameters. All ranks call it together, and with the same inputs; every
    one of them returns the whole prediction.

    :param folder: in the diffusers layout, config.json and safetensors.
    :param group: the ranks. None is right where no forward pass is run.
    :raises InvalidInput: heads or widths cannot be divided so.
    :raises OSError, KeyError: files or parameters that the config asks for are missing.
    """
    with ShardedCheckpoint(folder, CUTS) as checkpoint:
        with torch.device("meta"):
            model = kind.from_config(checkpoint.config)
        local_heads(model.config.num_attention_heads, place)
        for block in model.transformer_blocks:
            _divide(block, group)
        load_part(model, checkpoint, place, device=device, dtype=dtype)
    made: Model = with_rows(model)
    return made


def check_divisible(folder: Path, layout: Layout) -> None:
    """Whether the model, and the ControlNet beside it, can be divided so; reads headers only.

    :raises InvalidInput: heads or a width leave a remainder, or a LoRA is part of the transformer.
    """
    if (folder / LORA_NAME).is_file():
        raise InvalidInput("a transformer with a LoRA in it is for one device", param="devices")
    beside = folder / CONTROLNET_FOLDER
    for one in (folder, beside) if beside.is_dir() else (folder,):
        with ShardedCheckpoint(one, CUTS) as checkpoint:
            local_heads(checkpoint.config.get("num_attention_heads", 24), Place(layout=layout, rank=0))
            check_cuts(checkpoint, CUTS, layout)


def _divide(block: Any, group: Group) -> None:
    """Give a block the layers that join parts. The parameters are on the meta device and keep their names."""
    attention = block.attn
    attention.to_out[0] = RowLinear(attention.to_out[0], group)
    attention.to_add_out = RowLinear(attention.to_add_out, group)
    for feed_forward in (block.img_mlp, block.txt_mlp):
        feed_forward.net[2] = RowLinear(feed_forward.net[2], group)
    for modulation in (block.img_mod, block.txt_mod):
        modulation[1] = GatheredLinear(modulation[1], group)
