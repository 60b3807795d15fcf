"""What the supervisor makes of the models that the proxy wants: links, one change after the other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from darkroom.memory.sizes import MEGABYTE, memory_folder, read_sizes, read_wanted, write_wanted
from darkroom.serving.networks import ModelSpec
from darkroom.settings import Settings
from supervisor.engines import Local
from supervisor.served import Served
from supervisor.stubs import Stubs
from supervisor.swaps import Swaps
from tests.service import link_models

SMALL = ("realesrgan_animevideov3_x2", "upscale")
LARGE = ("sd15_text_encoder", "sd15_unet", "sd15")
OTHER = "sd15_loras"


class WithProcesses(Local):
    """Every model has a process, as in Triton."""

    def has_stubs(self, spec: ModelSpec) -> bool:
        return True


def made(folder: Path) -> tuple[Swaps, Served, Path]:
    repository = link_models(folder / "repository", *SMALL, *LARGE, OTHER)
    settings = Settings(
        _env_file=None, device_memory_gb=1, num_gpus_to_use=0, state_dir=folder / "state", model_repository=repository
    )
    write_wanted(memory_folder(settings), frozenset(SMALL))  # of an earlier start
    swaps = Swaps(settings, WithProcesses())
    swaps.begin()
    served = Served(folder / "served", repository, swaps.wants)
    served.clear()
    return swaps, served, memory_folder(settings)


def health(*loaded: str) -> dict[str, Any]:
    models = {model: model in loaded for model in (*SMALL, *LARGE, OTHER)}
    families = {
        name: {"models": list(those), "ready_for": None, "loaded": True}
        for name, those in (("upscale", SMALL), ("sd15", LARGE), (OTHER, [OTHER]))
    }
    return {"status": "healthy", "models": models, "families": families}


def no_stubs() -> Stubs:
    return {}


@pytest.fixture
def process() -> Iterator[psutil.Process]:
    """One that counts as a stub of a model."""
    program = "import ctypes; ctypes.CDLL(None).prctl(15, b'triton_python_b'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield psutil.Process(started.pid)
        started.kill()


def test_swaps_wait_for_the_proxy(tmp_path: Path) -> None:
    swaps, served, folder = made(tmp_path)
    assert not swaps.read()
    assert read_wanted(folder) is None
    write_wanted(folder, frozenset(LARGE))
    assert swaps.read()
    served.fill()
    assert served.linked() == {*LARGE, OTHER}


def test_swaps_load_when_everything_else_is_unloaded(tmp_path: Path) -> None:
    swaps, served, folder = made(tmp_path)
    write_wanted(folder, frozenset(LARGE))
    assert swaps.read()
    served.fill()
    assert swaps.step(served, health(*LARGE), no_stubs) == frozenset()
    write_wanted(folder, frozenset(SMALL))
    assert swaps.step(served, health(*LARGE), no_stubs) == set(LARGE)
    assert served.linked() == {OTHER}
    assert swaps.busy
    for loaded in (LARGE, LARGE[:1]):
        swaps.step(served, health(*loaded), no_stubs)
        assert served.linked() == {OTHER}
    swaps.step(served, {}, no_stubs)  # the proxy does not answer
    assert served.linked() == {OTHER}
    swaps.step(served, health(), no_stubs)
    assert served.linked() == {*SMALL, OTHER}
    assert not swaps.busy


def test_swaps_wait_until_processes_have_ended(tmp_path: Path, process: psutil.Process) -> None:
    """Triton says that a model is unloaded before its memory is free."""
    swaps, served, folder = made(tmp_path)
    write_wanted(folder, frozenset(LARGE))
    assert swaps.read()
    served.fill()
    write_wanted(folder, frozenset(SMALL))
    swaps.step(served, health(*LARGE), lambda: {process: "sd15_unet"})
    swaps.step(served, health(), no_stubs)
    assert served.linked() == {OTHER}
    process.kill()
    process.wait(60)
    swaps.step(served, health("sd15_unet"), no_stubs)  # the proxy has not seen it yet
    assert served.linked() == {*SMALL, OTHER}


def test_swaps_keep_unloaded_models_from_the_watching_supervisor(tmp_path: Path) -> None:
    swaps, served, folder = made(tmp_path)
    write_wanted(folder, frozenset(LARGE))
    assert swaps.read()
    served.fill()
    seen = swaps.seen(served, health(*LARGE))
    assert set(seen["models"]) == {*LARGE, OTHER}
    assert set(seen["families"]) == {"sd15", OTHER}
    assert swaps.seen(served, {}) == {}


def test_swaps_estimate_sizes_and_measure_them_once(tmp_path: Path, process: psutil.Process) -> None:
    swaps, _, folder = made(tmp_path)
    before = read_sizes(folder)
    files = before["sd15_unet"].files
    assert files > 40 * MEGABYTE
    assert before["sd15_unet"].size == files + 120 * MEGABYTE
    swaps.measure({"sd15_unet", "sd15"}, {process: "sd15_unet"})
    after = read_sizes(folder)
    assert 1 * MEGABYTE < after["sd15_unet"].size < files
    assert after["sd15_unet"].measured
    assert after["sd15"] == before["sd15"]
    swaps.begin()  # the next start
    assert read_sizes(folder) == after
    swaps.measure({"sd15_unet"}, {process: "sd15_unet", psutil.Process(): "sd15_unet"})
    assert read_sizes(folder) == after


def test_swaps_estimate_again_what_is_exported_again(tmp_path: Path, process: psutil.Process) -> None:
    swaps, _, folder = made(tmp_path)
    swaps.measure({"sd15_unet"}, {process: "sd15_unet"})
    model = tmp_path / "repository" / "sd15_unet"
    files = read_sizes(folder)["sd15_unet"].files
    model.unlink()
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.onnx").write_bytes(bytes(3 * MEGABYTE))
    swaps.begin()
    again = read_sizes(folder)["sd15_unet"]
    assert files != again.files == 3 * MEGABYTE
    assert (again.size, again.measured) == (123 * MEGABYTE, False)


def test_swaps_unload_everything_if_nothing_is_wanted(tmp_path: Path) -> None:
    swaps, served, folder = made(tmp_path)
    write_wanted(folder, frozenset(LARGE))
    assert swaps.read()
    served.fill()
    write_wanted(folder, frozenset())
    assert swaps.step(served, health(*LARGE), no_stubs) == set(LARGE)
    assert served.linked() == {OTHER}


@pytest.mark.parametrize("told", [True, False], ids=["by process", "not by process"])
def test_swaps_count_the_gpu_that_has_most(
    tmp_path: Path, process: psutil.Process, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """What the driver says of two GPUs. In containers it says nothing, or other numbers of processes."""
    pid = process.pid if told else process.pid + 1
    used = [{pid: 900 * MEGABYTE, 1: 5}, {pid: 800 * MEGABYTE}]
    monkeypatch.setattr("darkroom.settings.usable_gpus", lambda limit: (0, 1))
    monkeypatch.setattr("supervisor.swaps.gpu_processes", lambda limit: used)
    swaps, _, folder = made(tmp_path)
    before = read_sizes(folder)
    assert before["sd15_unet"].size == before["sd15_unet"].files + 500 * MEGABYTE
    assert before["sd15"].size == before["sd15"].files  # a pipeline has nothing there
    swaps.measure({"sd15_unet", "sd15"}, {process: "sd15_unet", psutil.Process(): "sd15"})
    after = read_sizes(folder)
    if told:
        assert (after["sd15_unet"].size, after["sd15"].size) == (900 * MEGABYTE, 0)
    else:
        assert after == before
