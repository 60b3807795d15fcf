"""Modules of a network that LoRAs can change: found in torch, marked while the network is traced, and run with one.

Mathematics: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", equation 3, with a factor for each
rank: y + up (scale * (down x)).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from darkroom.serving.lora_layout import DType, Kind, LoraLayout, OtherModule
from exporters.lora import DOMAIN, OPERATOR, LoraPart


@torch.library.custom_op("darkroom::lora_point", mutates_args=())
def lora_point(given: Tensor, result: Tensor, target: int) -> Tensor:
    """`result`, which a module made of `given`; a mark in the graph for module number `target`."""
    return result.clone()


@lora_point.register_fake
def _(given: Tensor, result: Tensor, target: int) -> Tensor:
    return torch.empty_like(result)


def targets_of(network: nn.Module, part: LoraPart) -> dict[str, nn.Module]:
    """The modules of a part of the checkpoint that LoRAs can change, by the names that LoRA files know them by."""
    return {part.full(name): module for name, module in network.named_modules() if _is_target(name, module, part)}


def _is_target(name: str, module: nn.Module, part: LoraPart) -> bool:
    pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == module.stride == (1, 1) and module.groups == 1
    return (isinstance(module, nn.Linear) or pointwise) and re.fullmatch(part.within, name) is not None


def _others(network: nn.Module, part: LoraPart) -> list[OtherModule]:
    """The linear layers and convolutions that the graph takes no matrices for."""
    return [
        OtherModule(
            name=part.full(name),
            kind=_kind(module),
            in_features=module.weight.shape[1],
            out_features=module.weight.shape[0],
            kernel=module.kernel_size[0] if isinstance(module, nn.Conv2d) else 1,
        )
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and not _is_target(name, module, part)
    ]


def _kind(module: nn.Module) -> Kind:
    return "linear" if isinstance(module, nn.Linear) else "conv"


def layout_of(network: nn.Module, part: LoraPart) -> LoraLayout:
    """Return the positions of each module's matrices in the inputs of the served graph."""
    modules: list[tuple[str, Kind, int, int]] = []
    for name, module in targets_of(network, part).items():
        weight = module.weight
        assert isinstance(weight, Tensor)
        modules.append((name, _kind(module), weight.shape[1], weight.shape[0]))
    dtype: DType = "float16" if next(network.parameters()).dtype == torch.float16 else "float32"
    return LoraLayout.of(part.component, dtype, modules, _others(network, part))


@contextlib.contextmanager
def marked(network: nn.Module, part: LoraPart) -> Iterator[None]:
    """While it lasts, what is traced of the network has a mark behind each module that LoRAs can change."""

    def mark(target: int, module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
        answer: Tensor = lora_point(given[0], result, target)
        return answer

    with _hooked([partial(mark, at) for at, _ in enumerate(targets_of(network, part))], network, part):
        yield


@contextlib.contextmanager
def applied(network: nn.Module, part: LoraPart, matrices: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """While it lasts, the network runs with a LoRA.

    :param matrices: down (rank, in) and up (out, rank) by the name of the module, for all of them.
    """

    def add(down: Tensor, up: Tensor, module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
        if isinstance(module, nn.Linear):
            return result + F.linear(F.linear(given[0], down), up)
        return result + F.conv2d(F.conv2d(given[0], down[..., None, None]), up[..., None, None])

    with _hooked([partial(add, *matrices[name]) for name in targets_of(network, part)], network, part):
        yield


@contextlib.contextmanager
def _hooked(hooks: list[Callable[..., Tensor]], network: nn.Module, part: LoraPart) -> Iterator[None]:
    """A hook for each module that LoRAs can change, in the order of `targets_of`."""
    modules = targets_of(network, part).values()
    handles = [module.register_forward_hook(hook) for module, hook in zip(modules, hooks, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def translations() -> Mapping[Any, Callable[..., Any]]:
    """What torch's exporter has to write for a mark."""
    from onnx.defs import OpSchema
    from onnxscript.values import Op, Opset

    schema = OpSchema(
        OPERATOR,
        DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter("given", "T"), OpSchema.FormalParameter("result", "T")],
        outputs=[OpSchema.FormalParameter("output", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "")],
        attributes=[OpSchema.Attribute("target", OpSchema.AttrType.INT, required=True)],
    )
    operator = Op(Opset(DOMAIN, 1), OPERATOR, schema)

    def write(given: Any, result: Any, target: int) -> Any:
        return operator(given, result, target=target)

    return {torch.ops.darkroom.lora_point.default: write}
