"""The plan of a training run. It is made once and kept in the state folder; a resumed run only reads it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.captioned_images import MAX_PIXELS, CaptionedImage, captioned_images, subfolders
from darkroom.errors import Conflict, InvalidInput
from darkroom.files import write_atomically
from darkroom.images import decode
from darkroom.request.training import TrainingOptions
from training.lora.buckets import Fit, Size, fit

FILE_NAME = "plan.json"
_MOST_STEPS = 1_000_000
MOST_SAMPLES = 64
"""Sample images of a training."""
_PRIOR_STREAM = 1
"""Tells the random numbers of prior images from those of the examples."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image to train on.

    :param image: its path in the folder of images.
    :param digest: SHA-256 of its file.
    """

    image: str
    digest: str
    caption: str
    fit: Fit


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of one run.

    :param options: of the training, all of them with values.
    :param checkpoint: the name of the checkpoint.
    :param weights: the files of its networks with their sizes, to notice another checkpoint.
    :param threads: of the CPU; another number would sum in another order.
    :param started_at: seconds since the epoch at the first start.
    """

    options: Mapping[str, Any]
    checkpoint: str
    weights: Mapping[str, int]
    examples: Sequence[Example]
    threads: int
    started_at: float

    @cached_property
    def request(self) -> TrainingOptions:
        """The options as a request."""
        return TrainingOptions.parse(self.options, None)

    @cached_property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.request.steps or self.request.epochs * len(self.epoch(0))

    @property
    def epochs(self) -> int:
        """Passes over all images, of which the last one may end early."""
        return math.ceil(self.steps / len(self.epoch(0)))

    @cached_property
    def sampled(self) -> dict[int, int]:
        """The steps after which samples are made, with their epochs: as many epochs as MOST_SAMPLES allows, evenly
        spread, the last one among them."""
        count = self.request.sample_images
        if not count:
            return {}
        batches, every = len(self.epoch(0)), math.ceil(self.epochs / (MOST_SAMPLES // count))
        chosen = range(self.epochs, 0, -every)
        return {min(self.steps, number * batches): number for number in sorted(chosen)}

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of a pass over all images: indices of examples of one size, in an order of seed and number."""
        random = np.random.default_rng([self.request.seed, number])
        members: dict[Size, list[int]] = defaultdict(list)
        for index in random.permutation(len(self.examples)).tolist():
            members[self.examples[index].fit.size].append(index)
        size = self.request.batch_size
        batches = [those[at : at + size] for _, those in sorted(members.items()) for at in range(0, len(those), size)]
        return [batches[index] for index in random.permutation(len(batches)).tolist()]

    def batch(self, step: int) -> list[int]:
        """The examples of a step, counted from 0."""
        batches = len(self.epoch(0))
        return self.epoch(step // batches)[step % batches]

    def prior_batch(self, step: int) -> list[int]:
        """The prior images of a step: as many as its examples, each one as often as the others."""
        count = self.request.prior_images
        if not count:
            return []
        size = min(self.request.batch_size, count)
        places = range(step * size, (step + 1) * size)
        orders = {at // count: self._prior_order(at // count) for at in places}
        return [orders[at // count][at % count] for at in places]

    def _prior_order(self, number: int) -> list[int]:
        random = np.random.default_rng([self.request.seed, number, _PRIOR_STREAM])
        order: list[int] = random.permutation(self.request.prior_images).tolist()
        return order


def prepare(
    folder: Path, images: Path, options: TrainingOptions, *, checkpoint: str, root: Path, side: int, threads: int
) -> Plan:
    """The plan of a state folder; it is made where there is none.

    :param folder: of the state.
    :param images: with captioned images in it or in its sub-folders.
    :param root: the folder of the checkpoint.
    :param side: that the checkpoint was trained at, in pixels.
    :raises Conflict: the state folder belongs to another training.
    :raises InvalidInput: there are no images, or one cannot be read.
    """
    given = {**options.model_dump(), "alpha": options.used_alpha, "resolution": options.resolution or side}
    weights = {str(path.relative_to(root)): path.stat().st_size for path in sorted(root.rglob("*.safetensors"))}
    path = folder / FILE_NAME
    if path.is_file():
        plan = _read(path)
        # As requests: what an older release has written has no newer options.
        if (plan.request.model_dump(), plan.checkpoint, plan.weights) != (given, checkpoint, weights):
            raise Conflict("The state folder belongs to a training with other options or of another checkpoint.")
        return plan
    plan = Plan(
        options=given,
        checkpoint=checkpoint,
        weights=weights,
        examples=_examples(images, given["resolution"]),
        threads=threads,
        started_at=time.time(),
    )
    if plan.steps > _MOST_STEPS:
        raise InvalidInput(
            f"steps must be at most {_MOST_STEPS:,}; epochs and the number of images make {plan.steps:,}.",
            param="epochs",
        )
    write_atomically(path, json.dumps(asdict(plan), indent=1).encode())
    return plan


def seed_of(folder: Path) -> int | None:
    """The seed of the training that a state folder belongs to; None where there is none yet."""
    path = folder / FILE_NAME
    return _read(path).request.seed if path.is_file() else None


def _read(path: Path) -> Plan:
    raw = json.loads(path.read_text())
    examples = [
        Example(**{**one, "fit": Fit(**{name: tuple(pair) for name, pair in one["fit"].items()})})
        for one in raw["examples"]
    ]
    return Plan(**{**raw, "examples": examples})


def _examples(images: Path, resolution: int) -> list[Example]:
    if not images.is_dir():
        raise InvalidInput("The folder of images is not there.", param="images")
    found = [one for folder in (images, *subfolders(images)) for one in captioned_images(folder)]
    if not found:
        raise InvalidInput("There are no images to train on: none has a .txt of its name beside it.", param="images")
    return [_example(one, images, resolution) for one in found]


def _example(one: CaptionedImage, images: Path, resolution: int) -> Example:
    """:raises InvalidInput: the image cannot be read, or the caption is not UTF-8."""
    name = str(one.image.relative_to(images))
    data = one.image.read_bytes()
    try:
        height, width, _ = decode(data, max_pixels=MAX_PIXELS).rgb.shape  # upright, which a header does not say
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error.message}", param=name) from None
    try:
        caption = one.caption.read_text("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise InvalidInput(f"The caption of {name} is not text in UTF-8.", param=name) from None
    return Example(
        image=name,
        digest=hashlib.sha256(data).hexdigest(),
        caption=caption,
        fit=fit((width, height), resolution),
    )
