"""Restarts, which the supervisor counts in a file and the proxy reads for its metrics: it may itself be restarted."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from darkroom.files import write_atomically
from darkroom.settings import Settings

log = logging.getLogger("darkroom")


def restarts_file(settings: Settings) -> Path:
    """The file of one service; several may share STATE_DIR."""
    return settings.state_dir / "restarts" / f"{settings.port}.json"


def read_restarts(file: Path) -> dict[str, dict[str, int]]:
    """The numbers of restarts, of "kinds" and of "models"; empty without a supervisor."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Tally:
    """What was restarted since the supervisor was started.

    :param file: is written anew with each restart.
    :param kinds: of what is restarted; each begins at 0.
    """

    def __init__(self, file: Path, kinds: Iterable[str]) -> None:
        self._file = file
        self._kinds = Counter(dict.fromkeys(kinds, 0))
        self._models: Counter[str] = Counter()

    def begin(self) -> None:
        """Write the file without any restart."""
        self._write()

    def restarted(self, kind: str) -> None:
        """Count the restart of a process."""
        self._kinds[kind] += 1
        self._write()

    def reloaded(self, models: Collection[str]) -> None:
        """Count models that are loaded again alone."""
        self._kinds["model"] += len(models)
        self._models.update(list(models))  # of a mapping it would add the values
        self._write()

    def _write(self) -> None:
        content = {"kinds": dict(self._kinds), "models": dict(self._models)}
        try:
            write_atomically(self._file, json.dumps(content).encode())
        except OSError as error:  # the service is worth more than its metrics
            log.warning("restarts cannot be counted: %s", error)
