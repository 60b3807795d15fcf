"""Sizes that a compiled engine has to take, as data: the `profiles.py` of a family says them of its networks.

An engine with dynamic shapes has optimisation profiles: boxes of sizes, each with a usual size for which its kernels
are chosen. A call outside every box fails, so the boxes of a network together hold all that is asked of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Range:
    """Sizes of one axis: the smallest, the usual and the largest one.

    :raises ValueError: they are not 1 <= minimum <= optimum <= maximum.
    """

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            limits = f"{self.minimum}, {self.optimum}, {self.maximum}"
            raise ValueError(f"a range must be 1 <= minimum <= optimum <= maximum; got {limits}")

    def capped(self, largest: int) -> Range:
        """This range without what is above `largest`, which must not be below its minimum."""
        return Range(minimum=self.minimum, optimum=min(self.optimum, largest), maximum=min(self.maximum, largest))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What a dimension of an input measures.

    :param name: of a range of the size class.
    :param step: how many of the range's units one element stands for: 8 for latents of a range in pixels.
    """

    name: str
    step: int = 1


@dataclass(frozen=True, kw_only=True)
class SizeClass:
    """One optimisation profile.

    :param name: for people.
    :param batch: the usual number of rows; from one row to the engine's largest batch are possible in every class.
    :param ranges: by the axes' names; "height" and "width" are in pixels.
    """

    name: str
    batch: int
    ranges: Mapping[str, Range]


@dataclass(frozen=True, kw_only=True)
class EngineSizes:
    """All that is asked of one network.

    :param axes: of every input, what its dimensions behind the batch measure; None where the graph fixes the size.
    """

    axes: Mapping[str, tuple[Axis | None, ...]]
    classes: tuple[SizeClass, ...]
