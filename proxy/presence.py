"""Which groups are to be loaded: all of them, unless the memory of a device has a budget."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol


class Presence(Protocol):
    """What a monitor has to know of models that are unloaded on purpose."""

    @property
    def swappable(self) -> Set[str]:
        """The models that may be unloaded; they are in the repository whatever Triton lists."""

    def is_wanted(self, group: str) -> bool:
        """Whether a group is to be loaded now."""

    def is_swapped_out(self, group: str) -> bool:
        """Whether requests wait until a group is loaded for them."""


class _Everything:
    swappable: Set[str] = frozenset()

    def is_wanted(self, group: str) -> bool:
        return True

    def is_swapped_out(self, group: str) -> bool:
        return False


EVERYTHING: Presence = _Everything()
"""Everything is loaded, always."""
