"""Renders scenes for training in several processes. Nothing here imports torch, so that the processes start quickly."""

from __future__ import annotations

import multiprocessing
import random
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkroom.diffusion.controls import ControlOptions
from darkroom.diffusion.controls.canny import preprocess
from training.render import JITTER, JITTERS, render
from training.world import random_caption, training_scenes


@dataclass(frozen=True, kw_only=True)
class Order:
    """Describes a chunk. Equal orders give equal chunks.

    :param strays: share of the scenes whose boxes stand in any of their positions; in the others each stands in one.
    :param edges: whether the edges are wanted.
    """

    seed: int
    count: int
    strays: float
    edges: bool


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """N rendered scenes of one order."""

    pictures: NDArray[np.uint8]
    """(N, 128, 128, 3) RGB."""
    sentences: list[str]
    edges: NDArray[np.uint8]
    """(N, 2048): edge pixels, packed eight to a byte; (N, 0) without edges."""


def canny(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB -> (H, W) uint8, 255 on edges: what the service's preprocessor makes by default."""
    edges: NDArray[np.uint8] = preprocess(picture, ControlOptions())[..., 0]
    return edges


def make_chunk(order: Order) -> Chunk:
    """Render the scenes of an order."""
    rng = random.Random(order.seed)
    scenes = list(islice(training_scenes(order.seed), order.count))
    jitters = [JITTERS if rng.random() < order.strays else (JITTER,) for _ in scenes]
    pictures = np.stack([render(scene, rng, moved) for scene, moved in zip(scenes, jitters, strict=True)])
    packed: list[NDArray[Any]] = [np.packbits(canny(picture) > 0) for picture in pictures] if order.edges else []
    edges = np.stack(packed) if packed else np.empty((len(scenes), 0), np.uint8)
    return Chunk(pictures=pictures, sentences=[random_caption(rng, scene) for scene in scenes], edges=edges)


def make_chunks(orders: Iterable[Order], workers: int) -> Iterator[Chunk]:
    """The chunks of `orders` in their order, some ahead of the one that is asked for; by this process if one works."""
    if workers == 1:
        yield from map(make_chunk, orders)
        return
    waiting: deque[Future[Chunk]] = deque()
    # Not forked: CUDA, where the caller has begun to use it, does not survive that.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for order in orders:
            waiting.append(pool.submit(make_chunk, order))
            if len(waiting) > workers:  # a chunk has 100 MB of images
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
