"""Kernels for attention: the first of an order that works on a device is used, and the others are said once.

Which kernel works depends on the device, the numbers, the size of a head and the mask; which is fastest depends on the
device. So the order is a setting, and every kernel is tried once with small tensors when a network is loaded. A module
here names no network: whoever calls attention asks an `Attention` in place of torch.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from darkroom.serving.host import Gauge

log = logging.getLogger("darkroom")

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""query, key, value (B, heads, tokens, head), and a mask that is True for what is seen, (B, 1, 1, tokens) or None."""

ORDERS: Mapping[str, tuple[str, ...]] = {"cuda": ("flash", "cudnn", "efficient", "math"), "cpu": ("flash", "math")}
"""By the type of a device, where the settings say nothing: the fastest first. Only torch's own kernels are in it."""
_MASKED = ("cudnn", "efficient", "math", "torch")
"""Kernels that take a mask. torch's flash does on a CPU."""
_TORCH = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_PROBE = (1, 2, 32)
"""Rows, heads and tokens of the tensors that a kernel is tried with."""


def _of_torch(name: str) -> Kernel:
    """torch's kernel; for a shape that it cannot do, math, which can do all."""
    order = [_TORCH[name], SDPBackend.MATH] if name != "math" else [SDPBackend.MATH]

    def run(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        with sdpa_kernel(order, set_priority=True):
            return scaled_dot_product_attention(query, key, value, attn_mask=mask)

    return run


def _chosen_by_torch(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _flash_attn(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    function = importlib.import_module("flash_attn").flash_attn_func
    made: Tensor = function(*(states.transpose(1, 2) for states in (query, key, value)))
    return made.transpose(1, 2)


def _sage(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    made: Tensor = importlib.import_module("sageattention").sageattn(query, key, value, tensor_layout="HND")
    return made


KERNELS: Mapping[str, Kernel] = {
    **{name: _of_torch(name) for name in _TORCH},
    "torch": _chosen_by_torch,
    "flash_attn": _flash_attn,
    "sage": _sage,
}
"""By the names of `attention_settings.KERNEL_NAMES`."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Attention by the kernels that were found to work.

    :param plain, masked: the names of the kernels for calls without and with a mask.
    """

    plain: str
    masked: str

    @classmethod
    def probed(cls, order: Sequence[str], *, device: torch.device, dtype: torch.dtype, head: int) -> Attention:
        """Try kernels on a device, and take the first that works. Each one that does not is one warning.

        :param order: names of KERNELS; empty: what ORDERS says. What takes no mask is left out for masks, and math,
            which always works, comes after them.
        :param head: the size of a head.
        """
        wanted = tuple(order) or ORDERS.get(device.type, ("torch",))
        with_mask = [name for name in wanted if name in _MASKED or (name == "flash" and device.type == "cpu")]
        failed: dict[str, str] = {}
        place: dict[str, Any] = {"device": device, "dtype": dtype, "head": head}
        plain, masked = (
            next(name for name in (*names, "math") if name == "math" or _works(name, failed, masked=mask, **place))
            for names, mask in ((wanted, False), (with_mask, True))
        )
        for name, reason in failed.items():
            log.warning("The attention kernel %s does not work here (%s); the next one is tried.", name, reason)
        return cls(plain=plain, masked=masked)

    def gauge(self) -> Gauge:
        """Says which kernels are in use, for the gauges of a network."""
        text = "1 for the attention kernels that a network runs on, without and with a mask"
        return Gauge("darkroom_network_attention", text, 1, {"plain": self.plain, "masked": self.masked})

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """As torch's `scaled_dot_product_attention`: (B, heads, tokens, head), with masks as `Kernel` has them."""
        return KERNELS[self.plain if mask is None else self.masked](query, key, value, mask)


CHOSEN_BY_TORCH = Attention(plain="torch", masked="torch")
"""Without a choice of ours."""


def _works(
    name: str, failed: dict[str, str], *, masked: bool, device: torch.device, dtype: torch.dtype, head: int
) -> bool:
    """Whether a kernel runs, with numbers near those of a plain computation; if not, `failed` gets the reason."""
    if name in failed:
        return False
    rows, heads, tokens = _PROBE
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(rows, heads, tokens, head, generator=generator) for _ in range(3)]
    mask = torch.arange(tokens)[None, None, None] < tokens // 2 if masked else None
    given = [part.to(device, dtype) for part in states]
    try:
        with sdpa_kernel(_TORCH[name]) if name in _TORCH else contextlib.nullcontext():
            query, key, value = given
            run = _chosen_by_torch if name in _TORCH else KERNELS[name]
            made = run(query, key, value, None if mask is None else mask.to(device)).float().cpu()
    except Exception as error:  # whatever a package or a driver raises: the next kernel is tried
        failed[name] = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return False
    expected = scaled_dot_product_attention(states[0], states[1], states[2], attn_mask=mask)
    if not (made - expected).norm() <= 0.1 * expected.norm():  # NaN included
        failed[name] = "its numbers are wrong"
    return name not in failed
