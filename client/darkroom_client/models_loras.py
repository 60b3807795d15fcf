"""LoRA files, and the sessions in which some are trained, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

TrainingState = Literal["none", "in-progress", "completed", "error"]
TRAINING_STATES: tuple[str, ...] = get_args(TrainingState)


@dataclass(frozen=True, kw_only=True)
class LoraRead:
    """What a model has read of a LoRA file.

    :param applied: tensors of the file that act, of `total`.
    :param rank: the largest one of its layers.
    :param warnings: what was left out or approximated.
    :param raw: the service's whole answer.
    """

    applied: int
    total: int
    rank: int
    trigger_words: tuple[str, ...]
    warnings: tuple[str, ...]
    raw: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LoraInfo:
    """A LoRA file of the library.

    :param name: as requests name it.
    :param digest: SHA-256 of the file, 64 hexadecimal digits.
    :param size: bytes.
    :param modified: ISO 8601, UTC.
    :param models: what the models that it fits have read of it, by their names; empty in a list of files.
    :param refused: the reasons of the models that it does not fit, by their names; empty in a list of files.
    :param raw: the service's whole answer.
    """

    name: str
    digest: str
    size: int
    modified: str
    models: Mapping[str, LoraRead]
    refused: Mapping[str, str]
    raw: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainingInfo:
    """How far the newest training of a session is.

    :param progress: percent.
    :param step: of `total_steps`; both 0 for a training that has ended.
    :param loss: of the last step, while it runs; None before the first step.
    :param paused: whether it waits to be resumed.
    :param task_id: of the durable task that trains; None if there was no training.
    :param lora: the file in the session, when it has completed.
    :param message: why it failed.
    :param raw: the service's whole answer.
    """

    state: TrainingState
    progress: int
    step: int
    total_steps: int
    loss: float | None
    paused: bool
    task_id: str | None
    lora: str | None
    message: str | None
    raw: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SessionInfo:
    """A training session.

    :param latest_lora: name of its newest LoRA file; None while there is none.
    :param image_groups: number of folders with images to train on.
    """

    id: str
    latest_lora: str | None
    image_groups: int
    training: TrainingInfo
    raw: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SessionLora:
    """A LoRA file of a session: its name there, and its bytes."""

    name: str
    data: bytes
