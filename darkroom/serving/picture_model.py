"""The parts of `ModelSpec` that all image generation pipelines share."""

from __future__ import annotations

import numpy as np

from darkroom.serving.networks import Tensors, TensorSpec

PROGRESS = TensorSpec(name="progress", dtype="INT32", dims=(2,), help="steps done, steps in all; in every response")
PREVIEW = TensorSpec(name="preview", dtype="UINT8", dims=(-1,), help="a small PNG, in responses of preview steps")
PICTURE = (
    TensorSpec(name="image", dtype="UINT8", dims=(-1,), help="one encoded image; in the last num_images ones"),
    TensorSpec(name="shape", dtype="INT32", dims=(3,), help="height, width, channels; beside an image"),
    TensorSpec(name="details", dtype="STRING", dims=(1,), help="JSON: index, seed, parameters; beside an image"),
)


def picture_canary(*, guidance_scale: float) -> Tensors:
    """The inputs that generate the smallest image in one step."""
    return {
        "prompt": np.array(["a cat"], np.object_),
        "steps": np.array([1], np.int32),
        "width": np.array([64], np.int32),
        "height": np.array([64], np.int32),
        "seed": np.array([0], np.int64),
        "guidance_scale": np.array([guidance_scale], np.float32),
    }
