"""The control of one edit at work: what the rows of the transformer have for its ControlNet, and at which steps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from darkroom.diffusion.shares import acts_at
from darkroom.images import Pixels
from darkroom.pipelines.qwen_edit.canvas import Canvas, resized
from darkroom.pipelines.qwen_edit.networks import CONTROL, CONTROL_SCALE, CONTROL_TEXT, CONTROL_TEXT_TOKENS
from darkroom.pipelines.qwen_edit.request import ResolvedEdit
from darkroom.pipelines.qwen_edit.tokens import pack, padded
from darkroom.serving.networks import Array, Network, Tensors


@dataclass(frozen=True)
class Control:
    """What the ControlNet reads of a request.

    :param tokens: (tokens, numbers) of the control image, as many as the noisy image has.
    :param rows: of the transformer, at every step.
    :param steps: of the schedule.
    :param text: (tokens, width) of the prompt, which steers all rows: those of the negative prompt get what the prompt
        gets, as in diffusers' QwenImageControlNetPipeline.
    """

    request: ResolvedEdit
    tokens: Array
    rows: int
    steps: int
    text: Array

    def inputs(self, index: int) -> Tensors:
        """The inputs of the transformer at a step, counted from 0; none where the ControlNet does not act."""
        request = self.request
        acts = acts_at(index, self.steps, request.control_guidance_start, request.control_guidance_end)
        return self._inputs if acts else {}

    @cached_property
    def _inputs(self) -> Tensors:
        return {
            CONTROL: np.repeat(padded([self.tokens]), self.rows, axis=0),
            CONTROL_SCALE: np.full((self.rows, 1), self.request.controlnet_conditioning_scale, np.float32),
            CONTROL_TEXT: np.repeat(padded([self.text]), self.rows, axis=0),
            CONTROL_TEXT_TOKENS: np.full((self.rows, 1), len(self.text), np.int32),
        }


async def control_tokens(image: Pixels | None, canvas: Canvas, vae_encoder: Network) -> Array | None:
    """(tokens, numbers) of a control image at the size of the canvas; None of none.

    diffusers draws a sample of the VAE's posterior; the mean is used here, as of all other images.

    :param image: framed as the first image of the request.
    """
    if image is None:
        return None
    fitting = await asyncio.to_thread(resized, image, canvas.outer_width, canvas.outer_height)
    mean = (await vae_encoder({"image": fitting[None]}))["mean"]
    tokens: Array = pack(torch.from_numpy(mean))[0].numpy()
    return tokens
