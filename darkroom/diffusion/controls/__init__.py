"""Kinds of control, one small file each; the file's name is the kind's."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from darkroom.images import Pixels


@dataclass(frozen=True, kw_only=True)
class ControlOptions:
    """What a request may say to the preprocessors; each uses what concerns it.

    :param low_threshold, high_threshold: Canny's, 1..255; gradients above the high one start an edge, and edges go
        on along gradients above the low one.
    """

    low_threshold: int = 100
    high_threshold: int = 200


class Control(Protocol):
    """What a module of this package offers."""

    TITLE: str
    """One line for people."""

    def preprocess(self, picture: Pixels, options: ControlOptions) -> Pixels:
        """What the ControlNet reads of a reference image; both are (height, width, 3) uint8 RGB."""


def control_names() -> tuple[str, ...]:
    """Every kind of control, in alphabetical order. Imports none of them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


@cache
def load_control(name: str) -> Control:
    """The control of that name, which must be one of `control_names()`."""
    module: Control = importlib.import_module(f"{__name__}.{name}")
    return module
