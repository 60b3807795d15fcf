"""What the leader tells the ranks when they start, in a file of their private folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from darkroom.parallel.layout import Layout

JOB_FILE = "job.json"
SOCKET = "leader"
STORE = "store"
"""Where ranks find each other."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """All in seconds.

    :param start: from the start of the processes until every rank has its part of the model.
    :param call: for one prediction.
    :param beat: a rank that was not heard of for that long hangs. It beats ten times as often.
    """

    start: float = 900
    call: float = 90
    beat: float = 30

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"timeout {name} must be above 0 s; got {value}")


@dataclass(frozen=True, kw_only=True)
class Job:
    """:param folder: of the transformer. :param dtype: of torch, without "torch."."""

    folder: str
    layout: Layout
    device_type: str
    devices: tuple[int, ...]
    dtype: str
    timeouts: Timeouts = field(default_factory=Timeouts)

    def write(self, private: Path) -> None:
        """Into the private folder of leader and ranks."""
        (private / JOB_FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, private: Path) -> Job:
        """What `write` wrote."""
        fields = json.loads((private / JOB_FILE).read_text())
        fields["layout"] = Layout(**fields["layout"])
        fields["timeouts"] = Timeouts(**fields["timeouts"])
        fields["devices"] = tuple(fields["devices"])
        return cls(**fields)
