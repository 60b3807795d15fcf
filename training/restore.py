"""Makes training states from checkpoints, so that training can continue when only the checkpoints were kept."""

from __future__ import annotations

import json
from pathlib import Path

from training.family import DemoFamily
from training.trainer import Report, TrainingRun, state_path, write_state


def restore(run: TrainingRun, checkpoints: Path, report: Report, family: DemoFamily) -> None:
    """Write the states that `export` would make these checkpoints of. The weights are the averaged ones in fp16;
    optimizers, learning rates and budgets start again, and what was spent before is only counted for the model card.

    :raises FileExistsError: the state folder holds states already.
    :raises OSError: no checkpoint there.
    """
    stages = family.load(checkpoints)
    for name in stages:
        if state_path(run, name).exists():
            raise FileExistsError(f"{state_path(run, name)} is there already; choose another --state.")
    for name, (folder, modules) in stages.items():
        spent = json.loads((folder / "training.json").read_text())[name]
        write_state(run, name, modules.float().state_dict(), clock=spent)
        report(f"{name}: restored at step {spent['step']}")
