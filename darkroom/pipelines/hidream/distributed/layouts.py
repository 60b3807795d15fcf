"""How many devices the transformer can be divided over: tensor parallelism within a group of ranks, the routed experts
over the groups. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from darkroom.errors import InvalidInput
from darkroom.parallel import devices
from darkroom.parallel.cuts import TP
from darkroom.parallel.layout import Layout, Place, divide

EP = "ep"
"""The axis of the expert parallel groups. They share the routed experts."""


def layout(*, tp: int, ep: int) -> Layout:
    """`ep` groups of `tp` ranks. Ranks of a group are neighbours."""
    return Layout(axes={EP: ep, TP: tp})


LAYOUTS: Mapping[int, Layout] = MappingProxyType(
    {
        1: layout(tp=1, ep=1),
        2: layout(tp=2, ep=1),
        4: layout(tp=4, ep=1),
        8: layout(tp=4, ep=2),
    }
)
"""By the number of devices. HiDream-I1 has 20 heads and 4 experts: 8 divides neither, so 8 devices take both ways."""


def layout_for(count: int) -> Layout:
    """The layout for a number of devices. :raises InvalidInput: there is no layout for that number."""
    if count not in LAYOUTS:
        counts = ", ".join(map(str, LAYOUTS))
        raise InvalidInput(f"device count must be one of {counts}; got {count}", param="devices")
    return LAYOUTS[count]


def parse_devices(text: str) -> tuple[int, ...]:
    """The numbers of "0,1,2,3".

    :raises InvalidInput: not such a list, a device twice, or a number of devices that there is no layout for.
    """
    numbers = devices.parse_devices(text)
    layout_for(len(numbers))
    return numbers


def experts_of(place: Place, count: int) -> range:
    """The routed experts of a rank's group, of `count`. :raises InvalidInput: the groups do not divide them."""
    group, groups = place.part(EP)
    each = divide(count, groups, "routed experts", "expert parallel groups")
    return range(group * each, (group + 1) * each)
