"""How many devices the transformer can be divided over. No torch here."""

from __future__ import annotations

from darkroom.errors import InvalidInput
from darkroom.parallel.cuts import TP
from darkroom.parallel.layout import Layout

COUNTS = (1, 2, 4, 8)
"""Numbers of devices that divide the 24 heads of the published transformer."""


def layout_for(count: int) -> Layout:
    """The layout for a number of devices. :raises InvalidInput: there is none for that number."""
    if count not in COUNTS:
        counts = ", ".join(map(str, COUNTS))
        raise InvalidInput(f"device count must be one of {counts}; got {count}", param="devices")
    return Layout(axes={TP: count})
