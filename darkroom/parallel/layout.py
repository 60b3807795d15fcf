"""How ranks are arranged: a grid with named axes, as the device meshes of torch.distributed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from darkroom.errors import InvalidInput

ALL = "all"
"""Stands for all ranks, in place of the name of an axis."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A grid of ranks, one per device.

    :param axes: the name and the length of each axis. Ranks that are neighbours along the last axis have neighbouring
        numbers.
    :raises ValueError: an axis is named "all", or its length is below 1.
    """

    axes: Mapping[str, int]

    def __post_init__(self) -> None:
        for name, length in self.axes.items():
            if name == ALL or length < 1:
                raise ValueError(
                    f"an axis must have a length of at least 1 and not be named {ALL!r}; got {name} {length}"
                )

    @property
    def size(self) -> int:
        """The number of ranks."""
        return prod(self.axes.values())


@dataclass(frozen=True, kw_only=True)
class Place:
    """The position of one rank in the grid."""

    layout: Layout
    rank: int

    def part(self, axis: str) -> tuple[int, int]:
        """Return (index of our part, number of parts) of data divided along an axis, or over all ranks (ALL)."""
        if axis == ALL:
            return self.rank, self.layout.size
        rest = self.rank
        for name, length in reversed(tuple(self.layout.axes.items())):
            rest, index = divmod(rest, length)
            if name == axis:
                return index, length
        raise KeyError(f"no axis is named {axis!r}; there are {', '.join(self.layout.axes)}")


def divide(count: int, parts: int, what: str, among: str) -> int:
    """Return `count / parts`. :raises InvalidInput: there is a remainder; the message has both numbers."""
    if count % parts:
        raise InvalidInput(f"{count} {what} cannot be divided among {parts} {among}", param="devices")
    return count // parts
