"""Depth by a model of transformers for depth estimation, such as Depth Anything or DPT, on the CPU."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from darkroom.diffusion.maps import MapMaker
from darkroom.images import Pixels


def load(folder: Path) -> MapMaker:
    """A maker of depth maps: white is near.

    :param folder: config.json, preprocessor_config.json and the weights as safetensors.
    :raises OSError, ValueError: it is not there, or no such model.
    """
    import torch
    from transformers import AutoModelForDepthEstimation
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    processor = DPTImageProcessorPil.from_pretrained(folder, local_files_only=True)
    model = AutoModelForDepthEstimation.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()

    @torch.inference_mode()
    def make(image: Pixels) -> Pixels:
        """(height, width, 3) uint8 of an image of that shape: from the farthest, 0, to the nearest, 255."""
        given = processor(images=image, return_tensors="pt", input_data_format="channels_last")
        near = model(**given).predicted_depth[0].float().numpy()
        height, width = image.shape[:2]
        near = cv2.resize(near, (width, height), interpolation=cv2.INTER_CUBIC)
        span = float(near.max() - near.min())
        levels = (near - near.min()) * (255 / span if span > 0 else 0.0)
        return np.repeat(levels.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)

    return make
