"""The options of a LoRA training: their ranges and defaults, for the service and for the command line."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Annotated, Any

from typing_extensions import Self

from darkroom.errors import InvalidInput
from darkroom.request.field import Field
from darkroom.request.fields import ANY_SEED, DRAWN_SEEDS, SEED_RANGE
from darkroom.request.request import Request
from darkroom.request.text_list import parse_texts, texts_schema

PRIOR_PROMPTS, PRIOR_IMAGES = "prior_prompts", "prior_images"
SAMPLE_PROMPTS, SAMPLE_IMAGES = "sample_prompts", "sample_images"
_MOST_PROMPTS, _LONGEST_PROMPT = 100, 1000
_MOST_SAMPLES = 8

RESOLUTION_STEP = 64
"""Sides of training images are multiples of it, in pixels."""


class TrainingOptions(Request):
    """What a training may be asked for, besides its images and its checkpoint."""

    steps: Annotated[
        int | None, Field(help="Optimizer steps. By default `epochs` passes over all images.", low=1, high=100_000)
    ] = None
    epochs: Annotated[int, Field(help="Passes over all images, where `steps` is absent.", low=1, high=1000)] = 1
    batch_size: Annotated[int, Field(help="Images of a step.", low=1, high=64)] = 4
    learning_rate: Annotated[float, Field(help="Of AdamW; it stays the same.", low=1e-8, high=1.0)] = 1e-4
    rank: Annotated[int, Field(help="Of the low-rank matrices.", low=1, high=128)] = 4
    alpha: Annotated[
        float | None, Field(help="The change is scaled by alpha / rank. By default `rank`.", low=0.01, high=1024.0)
    ] = None
    resolution: Annotated[
        int | None,
        Field(
            help="Images are resized to about this many pixels squared, with their aspect ratio. By default the side "
            "that the checkpoint was trained at.",
            low=64,
            high=2048,
            multiple=RESOLUTION_STEP,
            from_checkpoint=True,
        ),
    ] = None
    seed: Annotated[
        int,
        Field(
            help="Of noise, timesteps, the order of the images and the first weights. Random if absent or -1.",
            low=SEED_RANGE[0],
            high=SEED_RANGE[1],
            also={ANY_SEED: "any"},
        ),
    ] = ANY_SEED

    prior_images: Annotated[
        int,
        Field(
            help="Images that the checkpoint makes of `prior_prompts` before the training. Each step then learns from "
            "as many of them as of the session's images, so that other prompts change less.",
            low=0,
            high=1000,
        ),
    ] = 0
    prior_prompts: Annotated[
        str | None,
        Field(
            help="What `prior_images` show, in turn: other things that the checkpoint draws well, in the words of its "
            "users.",
            convert=lambda text: json.dumps(_prompts(PRIOR_PROMPTS, text)),
            json=True,
            texts=True,
            schema=texts_schema(_MOST_PROMPTS, _LONGEST_PROMPT, "a photo of a dog in a garden"),
        ),
    ] = None

    sample_images: Annotated[
        int,
        Field(
            help="Images that the served model makes with the LoRA after each epoch, or after fewer of many epochs, as "
            "results of the task. By default one of each of `sample_prompts`.",
            low=0,
            high=_MOST_SAMPLES,
        ),
    ] = 0
    sample_prompts: Annotated[
        str | None,
        Field(
            help="Of `sample_images`, in turn. By default the captions of the session's images.",
            convert=lambda text: json.dumps(_sample_prompts(text)),
            json=True,
            texts=True,
            schema=texts_schema(_MOST_SAMPLES, _LONGEST_PROMPT, "a photo of a cat in the snow"),
        ),
    ] = None

    def checked(self, limits: Any) -> Self:
        if bool(self.prior_images) != (self.prior_prompts is not None):
            there, missing = (PRIOR_IMAGES, PRIOR_PROMPTS) if self.prior_images else (PRIOR_PROMPTS, PRIOR_IMAGES)
            raise InvalidInput(f"{missing} is missing: {there} needs it.", param=missing)
        if self.sample_prompts is not None and SAMPLE_IMAGES not in self.model_fields_set:
            return self.with_values(sample_images=len(_sample_prompts(self.sample_prompts))).checked(limits)
        return self if self.seed != ANY_SEED else self.with_values(seed=secrets.randbelow(DRAWN_SEEDS))

    @property
    def used_alpha(self) -> float:
        """The alpha that is trained with."""
        return float(self.rank) if self.alpha is None else self.alpha

    @property
    def prior_captions(self) -> tuple[str, ...]:
        """The caption of each prior image."""
        texts = _prompts(PRIOR_PROMPTS, self.prior_prompts) if self.prior_prompts is not None else ()
        return tuple(texts[index % len(texts)] for index in range(self.prior_images))

    def sample_texts(self, captions: Sequence[str]) -> tuple[str, ...]:
        """The prompt of each sample image of an epoch.

        :param captions: of the images, for trainings without `sample_prompts`.
        """
        texts = tuple(dict.fromkeys(captions)) if self.sample_prompts is None else _sample_prompts(self.sample_prompts)
        return tuple(texts[index % len(texts)] for index in range(self.sample_images)) if texts else ()


def _sample_prompts(value: object) -> tuple[str, ...]:
    return parse_texts(SAMPLE_PROMPTS, value, most=_MOST_SAMPLES, longest=_LONGEST_PROMPT)


def _prompts(name: str, value: object) -> tuple[str, ...]:
    return parse_texts(name, value, most=_MOST_PROMPTS, longest=_LONGEST_PROMPT)
