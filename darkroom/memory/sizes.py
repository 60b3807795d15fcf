"""How much memory of a device each model takes: an estimate from its files, until it was measured.

The supervisor writes the table, because it knows the processes; the proxy reads it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from darkroom.files import write_atomically
from darkroom.settings import Settings

log = logging.getLogger("darkroom")

GIGABYTE = 1_000_000_000
MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Size:
    """The memory of one model.

    :param size: bytes.
    :param measured: whether it was measured after the model had loaded.
    :param files: bytes of its files: others make a measurement void.
    :param device: where it was measured.
    """

    size: int
    measured: bool = False
    files: int = 0
    device: Literal["cpu", "gpu"] = "cpu"


def memory_folder(settings: Settings) -> Path:
    """The files of one service; several may share STATE_DIR."""
    return settings.state_dir / "memory" / str(settings.port)


def read_sizes(folder: Path) -> dict[str, Size]:
    """The table, by model; empty without a supervisor."""
    try:
        found = json.loads((folder / "sizes.json").read_text())
        return {model: Size(**values) for model, values in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def sizes_time(folder: Path) -> int:
    """When the table was written, in nanoseconds; 0 if there is none."""
    try:
        return (folder / "sizes.json").stat().st_mtime_ns
    except OSError:
        return 0


def write_sizes(folder: Path, sizes: Mapping[str, Size]) -> None:
    """Write the table.

    :raises OSError: the folder cannot be written.
    """
    content = {model: asdict(size) for model, size in sorted(sizes.items())}
    write_atomically(folder / "sizes.json", json.dumps(content, indent=1).encode())


def read_wanted(folder: Path) -> frozenset[str] | None:
    """The models that the proxy wants loaded; None before it has said so."""
    try:
        return frozenset(map(str, json.loads((folder / "wanted.json").read_text())))
    except (OSError, ValueError, TypeError):
        return None


def write_wanted(folder: Path, models: frozenset[str]) -> None:
    """Write which models are wanted.

    :raises OSError: the folder cannot be written.
    """
    write_atomically(folder / "wanted.json", json.dumps(sorted(models)).encode())


def forget_wanted(folder: Path) -> None:
    """Remove what a proxy of an earlier start has wanted."""
    (folder / "wanted.json").unlink(missing_ok=True)


def files_of(model: Path) -> int:
    """Bytes of the files of a model's versions; what several names stand for counts once."""
    found: dict[tuple[int, int], int] = {}
    for path in model.glob("[0-9]*/**/*"):
        try:
            status = path.stat()
        except OSError:  # it is just being exported
            continue
        if path.is_file():
            found[status.st_dev, status.st_ino] = status.st_size
    return sum(found.values())


def shown(size: int) -> str:
    """Bytes for people."""
    return f"{size / GIGABYTE:.2f} GB"
