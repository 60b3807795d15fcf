"""Kinds of devices, as data: how ranks on them communicate, and the environment that they need."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from darkroom.devices import core_count
from darkroom.errors import InvalidInput

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class DeviceKind:
    """A type of device that torch knows.

    :param backend: the backend of torch.distributed.
    :param module: the package that adds the type to torch; imported in processes that use it.
    :param environment: environment variables of every rank.
    :param visible: the variable that lists the visible devices, which are then numbered from 0; "" if there is none.
    """

    name: str
    backend: str
    module: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    visible: str = ""


KINDS: dict[str, DeviceKind] = {
    kind.name: kind
    for kind in (
        DeviceKind(name="cpu", backend="gloo"),
        DeviceKind(name="cuda", backend="nccl"),
        # The variables and their values are those of an older service whose contract this one keeps.
        DeviceKind(
            name="npu",
            backend="hccl",
            module="torch_npu",
            environment={
                "HCCL_TIMEOUT": "7200",
                "HCCL_BUFFSIZE": "2048",
                "HCCL_SINGLE_NODE": "1",
                "ACL_STREAM_TIMEOUT": "7200",
                "PYTORCH_NPU_ALLOC_CONF": "max_split_size_mb:512",
                "TOKENIZERS_PARALLELISM": "false",
            },
            visible="ASCEND_RT_VISIBLE_DEVICES",
        ),
    )
}

# Ranks are on one machine, and should not listen to other machines.
_LOCAL = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def parse_devices(text: str) -> tuple[int, ...]:
    """Parse device numbers such as "0,1,2,3".

    :raises InvalidInput: the text is no such list, or names a device twice.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) < 64 for word in words):
        raise InvalidInput(
            f"devices must be numbers from 0 to 63 with commas between them; got {text!r}", param="devices"
        )
    numbers = tuple(map(int, words))
    if len(set(numbers)) != len(numbers):
        raise InvalidInput(f"devices must name each device once; got {text!r}", param="devices")
    return numbers


def kind_of(name: str) -> DeviceKind:
    """Look up a device kind by name. :raises InvalidInput: no such type of device."""
    if name not in KINDS:
        raise InvalidInput(f"device type must be one of {', '.join(KINDS)}; got {name!r}", param="device_type")
    return KINDS[name]


def environment(kind: DeviceKind, devices: Sequence[int]) -> dict[str, str]:
    """The environment variables of a distributed start that are added to the inherited ones.

    :param devices: the device numbers, one for each rank; on a CPU only the count matters.
    """
    if not kind.visible:
        return dict(kind.environment)
    return {**kind.environment, kind.visible: ",".join(map(str, devices)), "DEVICE_COUNT": str(len(devices))}


def rank_environment(kind: DeviceKind, devices: Sequence[int]) -> dict[str, str]:
    """`environment` with the variables of ranks: the loopback interface, and an equal share of this process's cores.

    More threads than cores make ranks wait for each other in every collective.
    """
    threads = str(max(1, core_count() // len(devices)))
    return {**environment(kind, devices), **_LOCAL, "OMP_NUM_THREADS": threads}


def device_of(kind: DeviceKind, devices: Sequence[int], rank: int) -> torch.device:
    """Return the device of a rank, and make it the current device of this process."""
    import torch

    if kind.name == "cpu":
        return torch.device("cpu")
    if kind.module:
        importlib.import_module(kind.module)
    device = torch.device(kind.name, rank if kind.visible else devices[rank])
    torch.get_device_module(device).set_device(device)
    return device
