"""Decisions that `prepare` makes alike for every family: the precision, and whether the demo is exported."""

from __future__ import annotations

from pathlib import Path

from darkroom.settings import Settings
from exporters.manifest import Precision


def precision_of(settings: Settings, half: bool) -> Precision | None:
    """The precision of a family's networks; None on a CPU, where what is installed stays as it is.

    :param half: what the family's settings ask for on GPUs.
    """
    if not settings.gpus:
        return None
    return "fp16" if half else "fp32"


def is_other_checkpoint(noted: str, demo: Path) -> bool:
    """Whether a repository holds a checkpoint of the user's own. The demo stays the demo when its clone is moved.

    :param noted: the checkpoint's name in the repository.
    """
    return Path(noted).parts[-2:] != demo.parts[-2:]
