"""How devices are divided: tensor parallelism within a group, the routed experts over the groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from darkroom.errors import InvalidInput

Over = Literal["tp", "all"]
"""What a parameter is cut over: the ranks of one tensor parallel group, or all ranks."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """`ep` groups of `tp` ranks.

    :param tp: tensor parallel ranks in a group; attention heads and each expert's width are divided by it.
    :param ep: expert parallel groups; the routed experts are divided among them.
    """

    tp: int
    ep: int

    @property
    def size(self) -> int:
        """Ranks in all, one per device."""
        return self.tp * self.ep


LAYOUTS: Mapping[int, Layout] = MappingProxyType(
    {
        1: Layout(tp=1, ep=1),
        2: Layout(tp=2, ep=1),
        4: Layout(tp=4, ep=1),
        8: Layout(tp=4, ep=2),
    }
)
"""By the number of devices. HiDream-I1 has 20 heads and 4 experts: 8 divides neither, so 8 devices take both ways."""


def layout_for(devices: int) -> Layout:
    """:raises InvalidInput: there is no layout for that many devices."""
    if devices not in LAYOUTS:
        counts = ", ".join(map(str, LAYOUTS))
        raise InvalidInput(f"device count must be one of {counts}; got {devices}", param="devices")
    return LAYOUTS[devices]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one rank stands. Ranks of a tensor parallel group are neighbours: `rank` = group * tp + place in it."""

    layout: Layout
    rank: int

    def part(self, over: Over) -> tuple[int, int]:
        """(which part is ours, of how many) of what is cut over `over`."""
        return (self.rank % self.layout.tp, self.layout.tp) if over == "tp" else (self.rank, self.layout.size)

    def experts(self, count: int) -> range:
        """The routed experts of our group, of `count`. :raises InvalidInput: the groups do not divide them."""
        each = divide(count, self.layout.ep, "routed experts", "expert parallel groups")
        first = self.rank // self.layout.tp * each
        return range(first, first + each)


def divide(count: int, parts: int, what: str, among: str) -> int:
    """`count / parts`. :raises InvalidInput: it leaves a remainder; the message has both numbers."""
    if count % parts:
        raise InvalidInput(f"{count} {what} cannot be divided among {parts} {among}", param="devices")
    return count // parts
