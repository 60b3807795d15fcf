"""Attention of UNets, ControlNets and VAEs as one operator, whose kernels never write the scores down.

Spelled out as MatMul, Softmax, MatMul, ONNX Runtime keeps a matrix of tokens x tokens per head in memory: at 64 x 64
latents that is 84 % of a step's time on a CPU (docs/decisions/0008-text-to-image-export.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from exporters.graphs.fused_attention import DOMAIN, OPERATOR

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

Module = TypeVar("Module", bound=nn.Module)
Network = TypeVar("Network", "UNet2DConditionModel", "ControlNetModel", "AutoencoderKL")


@torch.library.custom_op("darkroom::multi_head_attention", mutates_args=())
def multi_head_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    """softmax(scale q k^T) v for each head (Vaswani et al. 2017, equation 1 and section 3.2.2).

    :param query: (B, S, heads * d); `key` and `value` are (B, T, heads * d).
    :returns: (B, S, heads * d).
    """
    q, k, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2).contiguous()


@multi_head_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    return torch.empty_like(query)


class FusedAttention:
    """diffusers' AttnProcessor2_0 (diffusers 0.42, models/attention_processor.py) with the operator in its middle."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Pixels (B, S, C), or (B, C, h, w), attend to themselves or to tokens (B, T, width); the shape stays."""
        assert attention_mask is None
        assert attn.spatial_norm is None
        pixels = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim == 4 else hidden_states
        if attn.group_norm is not None:
            pixels = attn.group_norm(pixels.transpose(1, 2)).transpose(1, 2)
        tokens = pixels
        if encoder_hidden_states is not None:
            tokens = encoder_hidden_states
            if attn.norm_cross:
                tokens = attn.norm_encoder_hidden_states(tokens)
        query = attn.to_q(pixels)
        scale = (query.shape[-1] // attn.heads) ** -0.5
        attended = attn.to_out[0](multi_head_attention(query, attn.to_k(tokens), attn.to_v(tokens), attn.heads, scale))
        if hidden_states.ndim == 4:
            attended = attended.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            attended = attended + hidden_states
        result: Tensor = attended if attn.rescale_output_factor == 1 else attended / attn.rescale_output_factor
        return result


def sharing_copy(module: Module) -> Module:
    """A copy whose structure can be changed while its weights stay those of the original, in the same memory."""
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def with_fused_attention(network: Network) -> Network:
    """A copy of a UNet, ControlNet or VAE, sharing the weights, with attention as one operator."""
    copied = sharing_copy(network)
    copied.set_attn_processor(FusedAttention())
    return copied


def translations() -> Mapping[Any, Callable[..., Any]]:
    """What torch's exporter has to write for the operator."""
    from onnxscript.values import Op, Opset

    operator = Op(Opset(DOMAIN, 1), OPERATOR, _schema())

    def write(query: Any, key: Any, value: Any, heads: int, scale: float) -> Any:
        return operator(query, key, value, num_heads=heads, scale=scale)

    return {torch.ops.darkroom.multi_head_attention.default: write}


def _schema() -> Any:
    """What we use of the operator, by ONNX Runtime's docs/ContribOperators.md: the package onnx knows its own ones."""
    from onnx.defs import OpSchema

    inputs = [OpSchema.FormalParameter(name, "T") for name in ("query", "key", "value")]
    attributes = {"num_heads": OpSchema.AttrType.INT, "scale": OpSchema.AttrType.FLOAT}
    return OpSchema(
        OPERATOR,
        DOMAIN,
        1,
        inputs=inputs,
        outputs=[OpSchema.FormalParameter("output", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "")],
        attributes=[OpSchema.Attribute(name, kind, required=True) for name, kind in attributes.items()],
    )
