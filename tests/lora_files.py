"""LoRA files for tests: a small base model, random changes of it, and writers of every layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkroom.diffusion.lora.pack import Kind, Matrix, Target, Targets

Tensors = Mapping[str, NDArray[Any]]
LEVELS = (8, 16)
"""Channels of each level. Only the second one has attention, so that blocks are numbered differently by each style."""
CROSS = 12
TEXT = {"text_encoder": 10, "text_encoder_2": 14}


@dataclass(frozen=True)
class Change:
    """The change of one module: up @ down * alpha / rank.

    :param down: (rank, columns). :param up: (out, rank). :param alpha: None for one that is the rank.
    """

    target: Target
    down: Matrix
    up: Matrix
    alpha: float | None = None

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / len(self.down)

    @property
    def stored_down(self) -> Matrix:
        """As files have it: of a convolution in four dimensions."""
        side = self.target.kernel
        four = self.target.kind == "conv"
        return self.down.reshape(len(self.down), -1, side, side) if four else self.down

    @property
    def stored_up(self) -> Matrix:
        return self.up[:, :, None, None] if self.target.kind == "conv" else self.up

    @property
    def delta(self) -> NDArray[np.float64]:
        return self.scale * (self.up.astype(np.float64) @ self.down.astype(np.float64))


def linear(name: str, inside: int, out: int) -> Target:
    return Target(name=name, in_features=inside, out_features=out)


def conv(name: str, inside: int, out: int, kernel: int = 3) -> Target:
    kind: Kind = "conv"
    return Target(name=name, in_features=inside, out_features=out, kernel=kernel, kind=kind)


def resnet(name: str, inside: int, out: int) -> Iterator[Target]:
    yield conv(f"{name}.conv1", inside, out)
    yield linear(f"{name}.time_emb_proj", 32, out)
    yield conv(f"{name}.conv2", out, out)
    if inside != out:
        yield conv(f"{name}.conv_shortcut", inside, out, 1)


def attention(name: str, width: int, cross: int, proj: Kind) -> Iterator[Target]:
    make = (lambda *args: conv(*args, 1)) if proj == "conv" else linear
    yield make(f"{name}.proj_in", width, width)
    yield make(f"{name}.proj_out", width, width)
    block = f"{name}.transformer_blocks.0"
    for attn, context in (("attn1", width), ("attn2", cross)):
        yield linear(f"{block}.{attn}.to_q", width, width)
        yield linear(f"{block}.{attn}.to_k", context, width)
        yield linear(f"{block}.{attn}.to_v", context, width)
        yield linear(f"{block}.{attn}.to_out.0", width, width)
    yield linear(f"{block}.ff.net.0.proj", width, 8 * width)
    yield linear(f"{block}.ff.net.2", 4 * width, width)


def unet(*, cross: int = CROSS, proj: Kind = "linear", levels: tuple[int, ...] = LEVELS) -> list[Target]:
    """The modules of a UNet with two residual blocks at each level, and attention at the last level."""
    found = [conv("conv_in", 4, levels[0]), linear("time_embedding.linear_1", 8, 32), conv("conv_out", levels[0], 4)]
    found += [linear("time_embedding.linear_2", 32, 32), linear("add_embedding.linear_1", 20, 32)]
    found += [linear("add_embedding.linear_2", 32, 32)]
    last = len(levels) - 1
    for side, blocks in (("down", 2), ("up", 3)):
        for level in range(len(levels)):
            width = levels[level] if side == "down" else levels[last - level]
            deep = level == (last if side == "down" else 0)
            for index in range(blocks):
                found += resnet(f"{side}_blocks.{level}.resnets.{index}", width + 4 * (index == 0), width)
                if deep:
                    found += attention(f"{side}_blocks.{level}.attentions.{index}", width, cross, proj)
            if level < last:
                found.append(conv(f"{side}_blocks.{level}.{side}samplers.0.conv", width, width))
    found += [*resnet("mid_block.resnets.0", levels[-1], levels[-1]), *resnet("mid_block.resnets.1", 4, levels[-1])]
    return [*found, *attention("mid_block.attentions.0", levels[-1], cross, proj)]


def text_encoder(width: int, *, projection: bool, prefix: str = "text_model.") -> list[Target]:
    found = [linear("text_projection", width, width)] if projection else []
    for index in range(2):
        layer = f"{prefix}encoder.layers.{index}"
        found += [linear(f"{layer}.self_attn.{name}", width, width) for name in ("q_proj", "k_proj", "v_proj")]
        found.append(linear(f"{layer}.self_attn.out_proj", width, width))
        found += [linear(f"{layer}.mlp.fc1", width, 4 * width), linear(f"{layer}.mlp.fc2", 4 * width, width)]
    return found


def base(name: str = "small", *, prefix: str = "text_model.", **options: Any) -> Targets:
    """The small base model with two text encoders.

    :param prefix: of the modules of the first text encoder.
    """
    return Targets(
        base=name,
        components={
            "unet": unet(**options),
            "text_encoder": text_encoder(TEXT["text_encoder"], projection=False, prefix=prefix),
            "text_encoder_2": text_encoder(TEXT["text_encoder_2"], projection=True),
        },
    )


def change(target: Target, seed: int, *, rank: int = 2, alpha: float | None = None) -> Change:
    """A random one, of numbers that every type of 16 bits holds exactly."""
    rng = np.random.default_rng(seed)
    down, up = (
        (rng.integers(-8, 9, shape) / 8).astype(np.float32)
        for shape in ((rank, target.columns), (target.out_features, rank))
    )
    return Change(target, down, up, alpha)


Writer = Callable[[str, Change], dict[str, NDArray[Any]]]
"""The tensors of one module of a component in one layout."""

_KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


def _two(module: str, change: Change, down: str, up: str, alpha: str) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {module + down: change.stored_down, module + up: change.stored_up}
    if change.alpha is not None:
        found[module + alpha] = np.asarray(change.alpha, np.float32)
    return found


def kohya(component: str, change: Change, prefix: str = "") -> dict[str, NDArray[Any]]:
    module = f"{prefix or _KOHYA[component]}_{change.target.name.replace('.', '_')}"
    return _two(module, change, ".lora_down.weight", ".lora_up.weight", ".alpha")


def peft(component: str, change: Change, before: str = "", adapter: str = "") -> dict[str, NDArray[Any]]:
    module = f"{before}{component}.{change.target.name}"
    return _two(module, change, f".lora_A{adapter}.weight", f".lora_B{adapter}.weight", ".alpha")


def diffusers(component: str, change: Change) -> dict[str, NDArray[Any]]:
    stem = f"{component}.{change.target.name}"
    if component == "unet":
        return _two(stem, change, ".lora.down.weight", ".lora.up.weight", ".alpha")
    return _two(stem, change, ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", ".alpha")


def old_diffusers(component: str, change: Change) -> dict[str, NDArray[Any]]:
    """With attention processors; modules without one as diffusers has them."""
    name = change.target.name.replace(".to_out.0", ".to_out")
    stem, _, last = name.rpartition(".")
    text = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
    if stem.endswith("self_attn"):
        return _two(f"{component}.{stem}.{text[last]}", change, "_lora.down.weight", "_lora.up.weight", "_lora.alpha")
    if stem.endswith(("attn1", "attn2")):
        module = f"{component}.{stem}.processor.{last}"
        return _two(module, change, "_lora.down.weight", "_lora.up.weight", "_lora.alpha")
    return diffusers(component, change)


def bare(component: str, change: Change) -> dict[str, NDArray[Any]]:
    """Without the component for the denoiser."""
    module = change.target.name if component == "unet" else f"{component}.{change.target.name}"
    return _two(module, change, ".lora_A", ".lora_B", ".alpha")


def comfy(component: str, change: Change) -> dict[str, NDArray[Any]]:
    roots = {
        "unet": "diffusion_model",
        "text_encoder": "text_encoders.clip_l.transformer",
        "text_encoder_2": "text_encoders.clip_g.transformer",
    }
    module = f"{roots[component]}.{change.target.name}"
    return _two(module, change, ".lora_down.weight", ".lora_up.weight", ".alpha")


def sgm(component: str, change: Change) -> dict[str, NDArray[Any]]:
    """The names of the original code, for the UNet of `unet`."""
    if component != "unet":
        return kohya(component, change)
    module = "lora_unet_" + sgm_name(change.target.name).replace(".", "_")
    return _two(module, change, ".lora_down.weight", ".lora_up.weight", ".alpha")


SGM_BLOCKS = {
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.resnets.1": "input_blocks.2.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "down_blocks.1.resnets.0": "input_blocks.4.0",
    "down_blocks.1.attentions.0": "input_blocks.4.1",
    "down_blocks.1.resnets.1": "input_blocks.5.0",
    "down_blocks.1.attentions.1": "input_blocks.5.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.resnets.2": "output_blocks.2.0",
    "up_blocks.0.attentions.2": "output_blocks.2.1",
    "up_blocks.0.upsamplers.0": "output_blocks.2.2",
    "up_blocks.1.resnets.0": "output_blocks.3.0",
    "up_blocks.1.resnets.1": "output_blocks.4.0",
    "up_blocks.1.resnets.2": "output_blocks.5.0",
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
"""Written out by hand from the original code's UNet, so that it does not repeat the rule under test."""
_SGM_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def sgm_name(name: str) -> str:
    block = max((block for block in SGM_BLOCKS if name == block or name.startswith(f"{block}.")), key=len)
    rest = name[len(block) :].lstrip(".")
    rest = _SGM_RESNET.get(rest, rest) if "resnets" in block else rest
    return f"{SGM_BLOCKS[block]}.{rest}" if rest else SGM_BLOCKS[block]


def wrapped(component: str, change: Change) -> dict[str, NDArray[Any]]:
    """As PEFT, compiled and distributed training save them together."""
    return peft(component, change, before="base_model.model.module._orig_mod.", adapter=".default")


LAYOUTS: dict[str, Writer] = {
    "kohya": kohya,
    "sgm": sgm,
    "peft": peft,
    "peft adapter": lambda component, change: peft(component, change, adapter=".my_style"),
    "peft model": lambda component, change: peft(component, change, before="base_model.model."),
    "wrapped": wrapped,
    "diffusers": diffusers,
    "old diffusers": old_diffusers,
    "bare": bare,
    "comfy": comfy,
    "lycoris": lambda component, change: {
        name.replace("lora_", "lycoris_", 1): value for name, value in kohya(component, change).items()
    },
}


def pack_file(tensors: Tensors, metadata: Mapping[str, str] | None = None, dtype: str = "") -> bytes:
    """A safetensors file.

    :param dtype: of the floating point tensors, as the file's header has it; as they are where it is empty.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    body = bytearray()
    for name, value in tensors.items():
        kind, data = _stored(value, dtype)
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    return raw_file(header, bytes(body))


_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8"}


def _stored(value: NDArray[Any], dtype: str) -> tuple[str, bytes]:
    """The type as a header has it, and the bytes; bfloat16 and 8 bits by cutting, so for exact values only."""
    if value.dtype.kind != "f" or not dtype:
        dtype = {kind: name for name, kind in _NUMPY.items()}[value.dtype.str]
    if dtype == "BF16":
        return dtype, (value.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    if dtype == "F8_E5M2":
        return dtype, (value.astype(np.float16).view(np.uint16) >> 8).astype(np.uint8).tobytes()
    return dtype, value.astype(_NUMPY[dtype]).tobytes()


def raw_file(header: object, body: bytes = b"") -> bytes:
    """A file with any header, for what no library writes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body
