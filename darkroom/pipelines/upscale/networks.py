"""The models of the family as data: the Real-ESRGAN networks of `catalogue`, and the pipeline that calls them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from darkroom.pipelines.upscale.catalogue import DEFAULT_MODEL as DEFAULT_MODEL
from darkroom.pipelines.upscale.catalogue import NETWORKS as NETWORKS
from darkroom.pipelines.upscale.catalogue import UpscaleNetwork as UpscaleNetwork
from darkroom.pipelines.upscale.catalogue import by_family as by_family
from darkroom.pipelines.upscale.catalogue import choose as choose
from darkroom.pipelines.upscale.catalogue import model_names as model_names
from darkroom.pipelines.upscale.request import UpscaleRequest
from darkroom.png import encode_png
from darkroom.request.tensors import triton_inputs
from darkroom.serving.networks import ModelSpec, Tensors, TensorSpec


def _canary(served: Collection[str]) -> Tensors:
    png = encode_png(np.zeros((8, 8, 3), np.uint8))
    there = [network for network in NETWORKS if network.model_name in served]
    fastest = max(there or NETWORKS, key=lambda network: network.window_cpu)
    return {
        "image": np.frombuffer(png, np.uint8),
        "model": np.array([fastest.label], np.object_),
    }


PIPELINE = ModelSpec(
    name="upscale",
    backend="python",
    implementation="darkroom.pipelines.upscale.model:UpscaleModel",
    decoupled=True,
    inputs=triton_inputs(UpscaleRequest),
    outputs=(
        TensorSpec(name="progress", dtype="INT32", dims=(2,), help="tiles done, tiles in all; in every response"),
        TensorSpec(
            name="upscaled",
            dtype="UINT8",
            dims=(-1,),
            help="encoded image, or raw rows; last response only",
        ),
        TensorSpec(name="shape", dtype="INT32", dims=(3,), help="height, width, channels; last response only"),
        TensorSpec(name="details", dtype="STRING", dims=(1,), help="JSON: model, scale, tile; last response only"),
    ),
    canary_for=_canary,
)


def specs() -> tuple[ModelSpec, ...]:
    """Every model of this family, for the renderer of the model repository."""
    return (*(network.spec() for network in NETWORKS), PIPELINE)
