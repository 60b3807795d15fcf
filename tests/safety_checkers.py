"""Tiny safety checkers of diffusers' class, whose one concept is chosen so that some images are flagged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker, cosine_distance
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor

Pixels = NDArray[np.uint8]
_NEVER = 2.0
"""A threshold that no cosine reaches."""


def feature_extractor() -> CLIPImageProcessor:
    """What prepares images for a safety checker."""
    return CLIPImageProcessor()


def make_checker() -> StableDiffusionSafetyChecker:
    """A checker that flags nothing; its weights are the same every time."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**vision, "num_hidden_layers": 1}
    sizes = {"image_size": 224, "patch_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = CLIPConfig(vision_config={**vision, **sizes}, text_config=text, projection_dim=16)
        checker = StableDiffusionSafetyChecker(config).eval()
        with torch.no_grad():
            checker.visual_projection.weight.normal_()
            for concepts in (checker.concept_embeds, checker.special_care_embeds):
                concepts.normal_()
            for thresholds in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
                thresholds.fill_(_NEVER)
    return checker


def embeddings(checker: StableDiffusionSafetyChecker, images: Sequence[Pixels]) -> Tensor:
    """(n, width): what the checker compares with its concepts."""
    prepared = feature_extractor()(list(images), return_tensors="pt", input_data_format="channels_last")
    with torch.no_grad():
        embeds: Tensor = checker.visual_projection(checker.vision_model(prepared.pixel_values)[1])
    return embeds


def flag(checker: StableDiffusionSafetyChecker, wanted: Pixels, others: Sequence[Pixels]) -> None:
    """Have a checker flag images like `wanted` and none of the others."""
    concept, *rest = embeddings(checker, [wanted, *others])
    nearest = float(cosine_distance(torch.stack(rest), concept[None]).max())
    assert nearest < 0.995, "the images are too much alike"
    with torch.no_grad():
        checker.concept_embeds[3] = concept
        checker.concept_embeds_weights[3] = (1 + nearest) / 2


def fading(steps: int = 60, side: int = 96) -> list[Pixels]:
    """Images from a pattern to its negative, each a little different from the one before."""
    pattern = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).repeat(side // 6, 0).repeat(side // 6, 1)
    shares = np.linspace(0, 1, steps)
    return [(pattern * (1 - share) + (255 - pattern) * share).astype(np.uint8) for share in shares]


def brightness_checker() -> StableDiffusionSafetyChecker:
    """A checker that flags the first of the images of `fading`: down to a threshold, and down to one a hundredth lower
    while they are near its concept of special care, which more of them are."""
    checker, images = make_checker(), fading()
    first = embeddings(checker, images)
    cosines = cosine_distance(first, first[:1])[:, 0]
    with torch.no_grad():
        checker.concept_embeds[5] = first[0]
        checker.concept_embeds_weights[5] = cosines[len(images) // 3] + 0.0049
        checker.special_care_embeds[1] = first[0]
        checker.special_care_embeds_weights[1] = cosines[len(images) // 2]
    return checker
