"""The job that the leader gives to the ranks at their start, as a file in their private folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from darkroom.parallel.layout import Layout

JOB_FILE = "job.json"
SOCKET = "leader"
STORE = "store"
"""Name of the file through which the ranks meet."""
_SHARE_OF_THE_CANARY = 0.75
ANSWER = ""
"""The name of the answer among the tensors of a call. Inputs have other names."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Time limits of a job, in seconds.

    :param start: from the start of the processes until every rank has loaded its part.
    :param call: for one call.
    :param beat: a rank that sends no heartbeat for this long counts as hanging. Ranks send ten heartbeats in this time.
    """

    start: float = 900
    call: float = 90
    beat: float = 30

    @classmethod
    def within(cls, canary: float) -> Timeouts:
        """For a service whose canary waits so long, in seconds: ranks are given up before, or it would take them for a
        server that hangs."""
        return cls(call=_SHARE_OF_THE_CANARY * canary)

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"timeout {name} must be above 0 s; got {value}")


@dataclass(frozen=True, kw_only=True)
class RanksJob:
    """A program and the ranks that run it.

    :param program: "module:function", a `darkroom.parallel.program.Program` that each rank imports.
    :param arguments: arguments of the program; must be valid for JSON.
    """

    program: str
    arguments: Mapping[str, Any]
    layout: Layout
    device_type: str
    devices: tuple[int, ...]
    timeouts: Timeouts = field(default_factory=Timeouts)

    def write(self, private: Path) -> None:
        """Write the job into the private folder of leader and ranks."""
        (private / JOB_FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, private: Path) -> RanksJob:
        """Read the job that `write` wrote."""
        fields = json.loads((private / JOB_FILE).read_text())
        fields["layout"] = Layout(**fields["layout"])
        fields["timeouts"] = Timeouts(**fields["timeouts"])
        fields["devices"] = tuple(fields["devices"])
        return cls(**fields)
