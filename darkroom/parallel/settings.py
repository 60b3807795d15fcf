"""Settings of families whose network may be divided over devices. No torch here."""

from __future__ import annotations

import importlib.util
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Protocol, cast

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from darkroom.devices import usable_gpus
from darkroom.errors import InvalidInput
from darkroom.family_settings import FamilySettings
from darkroom.parallel.devices import environment, kind_of, parse_devices
from darkroom.parallel.layout import Layout

log = logging.getLogger("darkroom")

DeviceType = Annotated[
    Literal["cpu", "cuda", "npu"] | None,
    Field(
        description="What the transformer runs on: cpu, cuda or npu. Empty: where the other networks run, one whole "
        "transformer on each GPU."
    ),
]
Devices = Annotated[
    tuple[int, ...],
    NoDecode,
    Field(
        description="The numbers of the 1, 2, 4 or 8 devices that the transformer is divided over, as 0,1,2,3; on a "
        "CPU only the count matters. The first one needs room for the whole transformer, which goes on there alone if "
        "the ranks fail."
    ),
]


class _Divided(Protocol):
    device_type: str | None
    devices: tuple[int, ...]


class DividedSettings(FamilySettings):
    """The base of settings with the fields `device_type` and `devices`.

    A subclass has the fields, and `layout_for`.
    """

    options: ClassVar[Mapping[str, str]] = {}
    """Start options for the fields, for messages."""

    @classmethod
    @abstractmethod
    def layout_for(cls, count: int) -> Layout:
        """The layout for a number of devices. :raises InvalidInput: there is none for that number."""

    @property
    def divided(self) -> bool:
        """Whether several devices are named."""
        return len(self._own.devices) > 1

    def environment(self) -> dict[str, str]:
        """With what the devices need in the environment before torch is imported."""
        kind = self._own.device_type
        return {**super().environment(), **(environment(kind_of(kind), self._own.devices or (0,)) if kind else {})}

    def problems(self, gpus: Sequence[int]) -> list[str]:
        """Devices that the transformer is to run on and that this machine does not have.

        Where only others than the first are missing that is a warning: the transformer's start on several devices
        fails, and it goes on with the first.
        """
        kind = self._own.device_type or ("cuda" if gpus else "cpu")
        if kind == "npu" and importlib.util.find_spec("torch_npu") is None:
            needs = "needs Ascend's package torch_npu beside torch; it is not installed."
            return [f"{self._named('device_type', 'npu')} {needs}"]
        if kind != "cuda":
            return []
        there = usable_gpus(None)
        wanted = self._own.devices or there[:1] or (0,)
        missing = [number for number in wanted if number not in there]
        if not missing:
            return []
        have = ", ".join(map(str, there)) or "none"
        asked = f"asks for GPU {', '.join(map(str, missing))}; this machine has {have}"
        problem = f"{self._named('devices')} {asked}"
        if wanted[0] in missing:
            return [f"{problem} (or try {self._named('device_type', 'cpu')})."]
        log.warning("%s. It goes on with GPU %d alone.", problem, wanted[0])
        return []

    @property
    def _own(self) -> _Divided:
        return cast(_Divided, self)

    def _named(self, field: str, value: str = "") -> str:
        """A variable, with its start option if there is one."""
        option = f"{self.options[field]} {value}".strip() if field in self.options else ""
        return f"{self.variable(field)}{f'={value}' if value else ''}{f' ({option})' if option else ''}"

    @field_validator("devices", mode="before", check_fields=False)
    @classmethod
    def _divisible(cls, value: object) -> object:
        if not isinstance(value, str) or not value:
            return value
        try:
            numbers = parse_devices(value)
            cls.layout_for(len(numbers))
        except InvalidInput as error:
            raise ValueError(error.message) from None
        return numbers
