"""Trains stages one after another. A stage starts from the states that earlier stages wrote."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import FrameType

import torch

from training.family import family_of_stage
from training.manners import Manners
from training.trainer import Budget, Report, Trainer, TrainingRun, TrainingStage


def train_stages(run: TrainingRun, budgets: Mapping[str, Budget], threads: int | None, report: Report) -> None:
    """Train the stages of `budgets` in their order, each until its budget is spent.

    :param threads: the maximum; fewer while other programs need the cores.
    :raises KeyboardInterrupt: Ctrl-C or SIGTERM; the state is saved.
    """
    signal.signal(signal.SIGINT, _interrupt)  # nohup from a script leaves SIGINT ignored
    signal.signal(signal.SIGTERM, _interrupt)
    manners = Manners(threads or torch.get_num_threads(), torch.set_num_threads)
    for name, budget in budgets.items():
        Trainer(run, make_stage(name, run, report), report, manners.look).train(budget)


def choose_device(name: str) -> torch.device:
    """Return the device with a name; "auto" is CUDA if there is a GPU, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def make_stage(name: str, run: TrainingRun, report: Report) -> TrainingStage:
    """Make the stage with a name. Later stages need the states of earlier ones.

    :raises FileNotFoundError: such a state is missing.
    """
    return family_of_stage(name).make_stage(name, run, report)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
