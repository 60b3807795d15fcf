"""Keypoints of the person in an image by ViTPose of transformers, on the CPU, drawn as a skeleton.

One person, who fills the image: no model looks for people first.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from darkroom.diffusion.maps import MapMaker
from darkroom.images import Pixels

CLEAREST = 0.3
"""Heat (0..1) above which a point counts as seen; as in ViTPose's examples."""
BONES = (
    (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13),
    (13, 15), (12, 14), (14, 16),
)  # fmt: skip
"""Pairs of COCO's 17 points: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; left before right."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load(folder: Path) -> MapMaker:
    """A maker of skeletons in colours on black.

    :param folder: config.json and the weights of a VitPoseForPoseEstimation for COCO's 17 points, as safetensors.
    :raises OSError, ValueError: it is not there, or no such model.
    """
    import torch
    from transformers import VitPoseForPoseEstimation

    model = VitPoseForPoseEstimation.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    if model.config.num_labels != len(set(sum(BONES, ()))):
        raise ValueError(f"{folder.name} finds {model.config.num_labels} keypoints; a model for COCO's 17 is needed")
    height, width = model.config.backbone_config.image_size

    @torch.inference_mode()
    def make(image: Pixels) -> Pixels:
        """A skeleton (height, width, 3) uint8 of an image of that shape."""
        framed = _framed(image, width / height)
        seen = cv2.resize(framed, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        states = torch.from_numpy(((seen - _MEAN) / _STD).astype(np.float32)).permute(2, 0, 1)[None]
        return drawn(model(states).heatmaps[0].float().numpy(), framed.shape[1], framed.shape[0], image)

    return make


def _framed(image: Pixels, ratio: float) -> Pixels:
    """An image with black to the right or below, so that it has the ratio (width / height) that the model reads."""
    height, width = image.shape[:2]
    right = max(0, round(height * ratio) - width)
    below = max(0, round(width / ratio) - height)
    return np.pad(image, ((0, below), (0, right), (0, 0)))


def drawn(heat: NDArray[np.float32], width: int, height: int, image: Pixels) -> Pixels:
    """The skeleton of heatmaps (points, h, w), of an image with a frame of width x height, as large as `image`."""
    points, rows, columns = heat.shape
    best = heat.reshape(points, -1).argmax(axis=1)
    places = [((at % columns + 0.5) * width / columns, (at // columns + 0.5) * height / rows) for at in best]
    seen = heat.reshape(points, -1).max(axis=1) > CLEAREST
    made = np.zeros_like(image)
    thick = max(1, round(max(image.shape) / 128))
    for number, (start, end) in enumerate(BONES):
        if seen[start] and seen[end]:
            cv2.line(made, _pixel(places[start]), _pixel(places[end]), _colour(number, len(BONES)), thick, cv2.LINE_AA)
    for number in np.flatnonzero(seen):
        cv2.circle(made, _pixel(places[number]), 2 * thick, _colour(int(number), points), -1, cv2.LINE_AA)
    return made


def _pixel(place: tuple[float, float]) -> tuple[int, int]:
    return int(place[0]), int(place[1])


def _colour(number: int, count: int) -> tuple[int, int, int]:
    """Another hue for each."""
    hsv = np.array([[[180 * number // count, 255, 255]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue
