"""Shares of the steps between which a ControlNet or a LoRA acts."""

from __future__ import annotations


def acts_at(index: int, steps: int, start: float, end: float) -> bool:
    """Whether something acts at a step: at steps that lie wholly within its share, as diffusers' `controlnet_keep`.

    :param index: of the step, from 0.
    :param start, end: shares of the steps, 0..1.
    """
    return index / steps >= start and (index + 1) / steps <= end
