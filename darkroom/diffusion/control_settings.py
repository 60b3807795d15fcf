"""The setting that names the ControlNets of a family."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from darkroom.diffusion.controls import control_names
from darkroom.family_settings import split_at_commas


def _checked(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        control, _, checkpoint = entry.partition("=")
        if control not in control_names() or not checkpoint:
            raise ValueError(f"must be CONTROL=CHECKPOINT with CONTROL of {', '.join(control_names())}; got {entry!r}")
    return entries


Controlnets = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_at_commas), AfterValidator(_checked)]
"""CONTROL=CHECKPOINT, with commas between several in the environment."""


def controlnet_of(entries: Iterable[str]) -> dict[str, str]:
    """The checkpoint of each kind of control.

    :param entries: as `Controlnets` has checked them.
    """
    return {control: checkpoint for control, _, checkpoint in (entry.partition("=") for entry in entries)}
