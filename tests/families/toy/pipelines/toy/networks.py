"""The models of the family as data: one network and the pipeline."""

from __future__ import annotations

import numpy as np
from darkroom.pipelines.toy.request import ToyRequest

from darkroom.request.tensors import triton_inputs
from darkroom.serving.networks import ModelSpec, TensorSpec
from darkroom.serving.picture_model import PICTURE, PREVIEW, PROGRESS, picture_canary

PAINT = ModelSpec(
    name="toy_paint",
    backend="onnxruntime",
    inputs=(TensorSpec(name="colour", dtype="FP32", dims=(3,), help="RGB, 0 to 255"),),
    outputs=(TensorSpec(name="image", dtype="UINT8", dims=(64, 64, 3), help="RGB"),),
    on_demand=True,
    max_batch_size=4,
    files=("model.onnx",),
    canary=lambda: {"colour": np.zeros((1, 3), np.float32)},
)
PIPELINE = ModelSpec(
    name="toy",
    backend="python",
    implementation="darkroom.pipelines.toy.model:ToyModel",
    decoupled=True,
    on_demand=True,
    inputs=triton_inputs(ToyRequest),
    outputs=(PROGRESS, PREVIEW, *PICTURE),
    canary=lambda: picture_canary(guidance_scale=1),
)
