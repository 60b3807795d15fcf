"""The three trainings of HiDream-I1, which differ in how many steps and what guidance they want. No torch here.

Values: HiDream-ai/HiDream-I1, inference.py (MODEL_CONFIGS).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How a checkpoint wants to be sampled.

    :param steps, guidance_scale: of a request that names none.
    :param scheduler: a name of `darkroom.diffusion.schedulers.FLOW_SCHEDULERS`.
    :param shift: of the timesteps.
    """

    steps: int
    guidance_scale: float
    scheduler: str
    shift: float


VARIANTS: dict[str, Variant] = {
    "full": Variant(steps=50, guidance_scale=5.0, scheduler="flow_unipc", shift=3.0),
    "dev": Variant(steps=28, guidance_scale=0.0, scheduler="flow_flash", shift=6.0),
    "fast": Variant(steps=16, guidance_scale=0.0, scheduler="flow_flash", shift=3.0),
}
DEFAULT = "full"
