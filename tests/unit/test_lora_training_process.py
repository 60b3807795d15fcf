"""`python -m training lora` as a process: killed, stopped, left alone by its parent."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from darkroom.errors import Conflict, from_wire
from tests.conftest import heed_ctrl_c
from tests.lora_trainings import OPTIONS, WRITERS, write_checkpoints, write_images
from tests.service import ROOT
from training.lora.trainer import LOSSES, STATE


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("session"))


@pytest.mark.parametrize("name", WRITERS)
def test_training_ends_in_the_same_bytes_after_sigkill(
    tmp_path: Path, images: Path, checkpoints: dict[str, Path], name: str
) -> None:
    """Killed while it caches, in the first steps and in the last ones, against one that nothing disturbed."""
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    state = broken.with_suffix(".state")
    for said, save_seconds in (({"cached": 2}, 0), ({"step": 2}, 0), ({"step": 11}, 3600)):
        code, lines = command(images, checkpoints[name], broken, kill=said, save_seconds=save_seconds)
        assert code == -signal.SIGKILL
    code, lines = command(images, checkpoints[name], broken)
    assert code == 0
    begun = next(line["step"] for line in lines if "loss" not in line and "images" not in line)
    assert begun in (2, 3), "it goes on from the last state"
    table = (state / LOSSES).read_text()
    plan = json.loads((state / "plan.json").read_text())
    other = whole.with_suffix(".state")
    other.mkdir()
    (other / "plan.json").write_text(json.dumps(plan))  # the moment of the start stands in the file
    assert command(images, checkpoints[name], whole)[0] == 0
    assert (other / LOSSES).read_text() == table
    assert len(table.splitlines()) == 13
    assert whole.read_bytes() == broken.read_bytes()


def command(
    images: Path, checkpoint: Path, output: Path, kill: dict[str, int] | None = None, save_seconds: float = 0
) -> tuple[int, list[dict[str, Any]]]:
    """`python -m training lora`; its exit code and lines. It is killed after the line that has `kill`."""
    options = {**OPTIONS, "steps": 12, "checkpoint": checkpoint, "output": output, "threads": 1}
    options["save_seconds"] = save_seconds
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    lines = []
    with started([sys.executable, "-m", "training", "lora", str(images), *arguments, "--title=same"]) as process:
        for text in output_of(process):
            lines.append(json.loads(text))
            if kill is not None and kill.items() <= lines[-1].items():
                process.kill()
        return process.wait(60), lines


@contextlib.contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def output_of(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    while json.loads(output_of(process).readline()).get("step", 0) < step:
        pass


def endless(images: Path, checkpoint: Path, output: Path) -> list[str]:
    options = [f"--checkpoint={checkpoint}", f"--output={output}", "--steps=100000", "--resolution=64", "--threads=1"]
    return [sys.executable, "-m", "training", "lora", str(images), *options]


def test_training_command_stops_at_ctrl_c_with_a_state(
    tmp_path: Path, images: Path, checkpoints: dict[str, Path]
) -> None:
    output = tmp_path / "made.safetensors"
    command = endless(images, checkpoints["sd15"], output)
    with started(command, preexec_fn=heed_ctrl_c) as process:
        wait_for_step(process, 2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert (output.with_suffix(".state") / STATE).is_file()
    assert not output.exists()


def test_training_on_a_device_that_is_not_there_is_refused(
    tmp_path: Path, images: Path, checkpoints: dict[str, Path]
) -> None:
    command = endless(images, checkpoints["sd15"], tmp_path / "made.safetensors")
    with started([*command, "--device=cuda:999"]) as process:
        (line,) = [json.loads(text) for text in output_of(process)]
        assert process.wait(60) == 1
    refused = from_wire(line["error"])
    assert isinstance(refused, Conflict)
    assert "'cuda:999'" in refused.message


def test_training_dies_with_its_parent(tmp_path: Path, images: Path, checkpoints: dict[str, Path]) -> None:
    trainer = endless(images, checkpoints["sd15"], tmp_path / "made.safetensors")
    script = f"import os, subprocess; subprocess.run({trainer!r} + ['--parent', str(os.getpid())])"
    with started([sys.executable, "-c", script]) as parent:
        wait_for_step(parent, 1)
        parent.kill()
        parent.wait()
        output_of(parent).read()  # to its end, which comes when nobody has the pipe open any more
