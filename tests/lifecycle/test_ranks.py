"""Ranks that die, hang or do not start: the call at hand is answered all the same, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from selectors import DefaultSelector
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from darkroom.parallel.job import SOCKET, Timeouts
from darkroom.parallel.launch import LEADER_ENDED
from darkroom.parallel.processes import is_alive
from darkroom.parallel.ranks import PREFIX, for_clients
from darkroom.pipelines.hidream.distributed import transformer as transformer_module
from darkroom.pipelines.hidream.distributed.transformer import DistributedTransformer
from darkroom.pipelines.hidream.transformer import load_transformer, predict
from tests.parallel_models import (
    make_inputs,
    own_temporary_folder,
    private_folders,
    ranks_below,
    relative_error,
    wait_gone,
    write_transformer,
)

TOLERANCE = 1e-4
WEIGHTS = "diffusion_pytorch_model.safetensors"
INPUTS = make_inputs(2, 8, 12)
LEADER = """
import sys, json, time, torch
from pathlib import Path
from darkroom.pipelines.hidream.distributed.transformer import DistributedTransformer
from tests.parallel_models import make_inputs
folder = Path(sys.argv[1])
transformer = DistributedTransformer(folder, device_type="cpu", devices=(0, 1), dtype=torch.float32)
print(json.dumps(transformer.status()), flush=True)
while True:
    transformer(make_inputs(2, 8, 12))
"""


@pytest.fixture(autouse=True)
def _temporary_folder() -> Iterator[None]:
    with own_temporary_folder():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transformer(tmp_path_factory.mktemp("transformer"))


@pytest.fixture(scope="module")
def expected(folder: Path) -> Tensor:
    return predict(load_transformer(folder, device=torch.device("cpu"), dtype=torch.float32), INPUTS)


@contextlib.contextmanager
def distributed(folder: Path, ranks: int = 2, **timeouts: float) -> Iterator[DistributedTransformer]:
    """A transformer on ranks; afterwards, neither processes nor files of it may be left."""
    before = private_folders()
    patience = Timeouts(**{"start": 300, "call": 120, "beat": 60, **timeouts})
    with DistributedTransformer(
        folder, device_type="cpu", devices=range(ranks), dtype=torch.float32, timeouts=patience
    ) as transformer:
        below = ranks_below()
        yield transformer
    assert not wait_gone(below)
    assert private_folders() == before


def process_of(status: dict[str, Any], rank: int) -> psutil.Process:
    return psutil.Process(status["ranks"][rank]["pid"])


class Call(threading.Thread):
    """A prediction that runs beside the test."""

    def __init__(self, transformer: DistributedTransformer) -> None:
        super().__init__()
        self._transformer = transformer
        self.answer = torch.zeros(0)
        self.start()

    def run(self) -> None:
        self.answer = self._transformer(INPUTS)


def assert_single(transformer: DistributedTransformer, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    status = transformer.status()
    assert status["mode"] == "single"
    assert reason in status["reason"]
    assert not any(rank["alive"] for rank in status["ranks"])
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert any("goes on with one device" in words and reason in words for words in warnings)


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.heavy)])
def test_a_killed_rank_costs_no_call(
    folder: Path, expected: Tensor, victim: int, caplog: pytest.LogCaptureFixture
) -> None:
    with distributed(folder) as transformer:
        assert relative_error(transformer(INPUTS), expected) <= TOLERANCE
        process = process_of(transformer.status(), victim)
        process.suspend()  # so that the call is surely under way when it is killed
        call = Call(transformer)
        time.sleep(1)
        assert call.is_alive()
        process.kill()
        call.join()
        assert relative_error(call.answer, expected) <= TOLERANCE
        assert_single(transformer, f"rank {victim} (process {process.pid}) ended", caplog)
        assert relative_error(transformer(INPUTS), expected) <= TOLERANCE


@pytest.mark.heavy
def test_a_rank_that_hangs_is_given_up(folder: Path, expected: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    with distributed(folder, beat=15) as transformer:  # so long a healthy one is not silent on a busy machine, either
        process = process_of(transformer.status(), 1)
        process.suspend()
        started = time.monotonic()
        assert relative_error(transformer(INPUTS), expected) <= TOLERANCE
        assert time.monotonic() - started > 10
        assert_single(transformer, f"rank 1 (process {process.pid}) was silent for", caplog)


@pytest.mark.heavy
def test_a_call_has_a_deadline(folder: Path, expected: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    with distributed(folder, call=0.001) as transformer:
        assert relative_error(transformer(INPUTS), expected) <= TOLERANCE
        assert_single(transformer, "gave no answer within 0.001 s", caplog)


@pytest.mark.heavy
def test_a_killed_torchrun_takes_its_ranks_along(
    folder: Path, expected: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with distributed(folder) as transformer:
        ranks = [process_of(transformer.status(), rank) for rank in (0, 1)]
        ranks[0].parent().kill()
        assert not wait_gone(ranks)
        assert relative_error(transformer(INPUTS), expected) <= TOLERANCE
        assert_single(transformer, "ended", caplog)


@pytest.mark.parametrize("reason", ["torchrun ended with code 1", "were not ready within 0.2 s"])
def test_a_start_that_fails_leaves_one_device(
    folder: Path,
    expected: Tensor,
    reason: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "torchrun" in reason:  # which refuses this value; this process has read it long ago
        monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "no such level")
    with distributed(folder, start=300 if "torchrun" in reason else 0.2) as transformer:
        assert_single(transformer, reason, caplog)
        assert relative_error(transformer(INPUTS), expected) <= TOLERANCE


def test_the_one_device_is_the_first_that_takes_the_model(
    folder: Path, expected: Tensor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranks may have failed because of the first one."""
    asked: list[torch.device] = []

    def load(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
        asked.append(device)
        if len(asked) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return load_transformer(folder, device=device, dtype=dtype)

    monkeypatch.setattr(transformer_module, "load_transformer", load)
    with distributed(folder, start=0.2) as transformer:
        assert_single(transformer, "were not ready within 0.2 s", caplog)
        assert "cannot be loaded to cpu, trying the next: CUDA out of memory." in caplog.text
        assert relative_error(transformer(INPUTS), expected) <= TOLERANCE
        assert len(asked) == 2


@pytest.mark.heavy
def test_ranks_are_excused_when_all_stood_still(
    folder: Path, expected: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that is paused for longer than a rank may be silent; we are the first that goes on."""
    monkeypatch.setattr("darkroom.parallel.ranks._SUSPENDED_SECONDS", 1.0)
    with distributed(folder, beat=8) as transformer:
        ranks = transformer._ranks
        assert ranks is not None
        select = DefaultSelector.select

        def paused(selector: DefaultSelector, timeout: float | None = None) -> Any:
            monkeypatch.setattr(DefaultSelector, "select", select)
            processes = [process_of(transformer.status(), rank) for rank in (0, 1)]
            for process in processes:
                process.suspend()
            time.sleep(10)
            for process in processes:
                threading.Timer(1, process.resume).start()
            return []

        monkeypatch.setattr(DefaultSelector, "select", paused)
        time.sleep(13)
        assert transformer.status()["mode"] == "distributed"
        assert relative_error(transformer(INPUTS), expected) <= TOLERANCE
        assert transformer.status()["mode"] == "distributed"


def test_without_a_place_to_meet_there_is_one_device(
    folder: Path, expected: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)  # longer than the path of a socket may be
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with distributed(folder) as transformer:
        assert_single(transformer, "no place for what leader and ranks share: AF_UNIX path too long", caplog)
        assert transformer.status()["failed_at"] <= time.time()
        assert relative_error(transformer(INPUTS), expected) <= TOLERANCE
    assert not list(deep.iterdir())


def test_a_model_that_cannot_be_divided_is_on_one_device(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_transformer(tmp_path, num_attention_heads=6)
    with distributed(folder, ranks=4) as transformer:
        assert_single(transformer, "6 attention heads cannot be divided among 4 tensor parallel ranks", caplog)
        expected = predict(load_transformer(folder, device=torch.device("cpu"), dtype=torch.float32), INPUTS)
        assert relative_error(transformer(INPUTS), expected) <= TOLERANCE


def test_a_rank_tells_why_it_failed(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["x_embedder.proj.bias"]
    save_file(weights, tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(RuntimeError, match=r"x_embedder\.proj\.bias"), distributed(tmp_path):  # nor can one device
        pass
    assert "goes on with one device: " in caplog.text
    assert "the checkpoint has no parameter x_embedder.proj.bias" in caplog.text
    assert not ranks_below()


def test_what_clients_are_told_of_a_failure() -> None:
    reason = "rank 0 failed: FileNotFoundError: no '/srv/models/1/config.json' beside /srv/models, 3/4 read\nTraceback"
    told = "rank 0 failed: FileNotFoundError: no '(a file)' beside (a file), 3/4 read"
    assert for_clients(reason) == told
    assert for_clients("rank 1 (process 7) ended") == "rank 1 (process 7) ended"
    assert len(for_clients("x" * 2000)) == 300


def test_one_device_needs_no_ranks(folder: Path, expected: Tensor) -> None:
    with distributed(folder, ranks=1) as transformer:
        assert torch.equal(transformer(INPUTS), expected)
        status = transformer.status()
        assert (status["mode"], status["reason"], status["ranks"]) == ("single", None, [])
        assert not ranks_below()


@contextlib.contextmanager
def leader(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that has ranks, killed at the end if it was not before."""
    command = [sys.executable, "-c", LEADER, str(folder)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_ranks_end_with_a_killed_leader(folder: Path) -> None:
    before = private_folders()
    with leader(folder) as process:
        assert process.stdout is not None
        status = json.loads(process.stdout.readline())
        assert status["mode"] == "distributed"
        time.sleep(random.random())  # somewhere in a call
        below = ranks_below(psutil.Process(process.pid))
        assert {rank["pid"] for rank in status["ranks"]} < {child.pid for child in below}
        process.kill()
        assert not wait_gone(below)
    assert not _left_after(before)


def test_a_leader_that_is_killed_while_ranks_start_leaves_nothing(folder: Path) -> None:
    before = private_folders()
    with leader(folder) as process:
        below: list[psutil.Process] = []
        deadline = time.monotonic() + 300
        while len(below) < 3 and time.monotonic() < deadline:  # torchrun and both ranks, which still import
            time.sleep(0.01)
            below = ranks_below(psutil.Process(process.pid))
        assert len(below) == 3
        process.kill()
        assert not wait_gone(below)
    assert not _left_after(before)


def test_an_end_that_is_told_again_and_again_leaves_nothing(folder: Path) -> None:
    """The kernel tells torchrun of its leader's end once for each of that one's threads."""
    with leader(folder) as process:
        assert process.stdout is not None
        process.stdout.readline()
        torchrun, *ranks = below = ranks_below(psutil.Process(process.pid))
        assert len(ranks) == 2
        process.send_signal(signal.SIGSTOP)  # it would clean up, too
        with contextlib.suppress(psutil.NoSuchProcess):
            while is_alive(torchrun):
                torchrun.send_signal(LEADER_ENDED)
                time.sleep(0.0001)
        assert not wait_gone(below)
        assert not private_folders()


def _left_after(before: set[Path]) -> set[Path]:
    deadline = time.monotonic() + 60
    while private_folders() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    return private_folders() - before


def test_folders_of_the_dead_are_swept_and_those_of_the_living_are_not(folder: Path) -> None:
    dead, living = (Path(tempfile.mkdtemp(prefix=PREFIX)) for _ in range(2))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gone:
            gone.bind(str(dead / SOCKET))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(living / SOCKET))
            listener.listen()
            for old in (dead, living):
                os.utime(old, times=(0, 0))
            with DistributedTransformer(
                folder, device_type="cpu", devices=(0, 1), dtype=torch.float32, timeouts=Timeouts(start=0.1)
            ):
                assert not dead.exists()
                assert living.exists()
    finally:
        for left in private_folders() & {dead, living}:
            for file in left.iterdir():
                file.unlink()
            left.rmdir()


@pytest.mark.heavy
def test_twenty_killed_ranks(folder: Path, expected: Tensor) -> None:
    """At any moment: between calls, in one, while the answer is on its way."""
    for seed in range(20):
        chance = random.Random(seed)
        with distributed(folder) as transformer:
            process = process_of(transformer.status(), chance.randrange(2))
            timer = threading.Timer(chance.random() / 2, process.kill)
            timer.start()
            deadline = time.monotonic() + 300
            while transformer.status()["mode"] == "distributed" or transformer.status()["reason"] is None:
                assert relative_error(transformer(INPUTS), expected) <= TOLERANCE
                assert time.monotonic() < deadline
            assert relative_error(transformer(INPUTS), expected) <= TOLERANCE
            timer.join()
