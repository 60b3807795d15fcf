"""Macs, Windows and ARM: what is installed there, what is imported, and how processes are held together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from darkroom.locks import try_lock
from darkroom.parallel.processes import PARENT
from darkroom.serving.accelerators import Accelerators, proven
from darkroom.serving.batching import NetworkCall
from darkroom.serving.network_queue import Executable
from tests.service import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

LINUX_ONLY = {"nvidia-pytriton", "helm-python-sdk"}
PLATFORMS = {
    "macOS": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"},
    "Windows": {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64", "os_name": "nt"},
    "Linux": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
    "ARM": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64", "os_name": "posix"},
}


def wanted(platform: str, *extras: str) -> set[str]:
    """The packages that an installation with these extras asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    found = map(Requirement, lines)
    there = {**PLATFORMS[platform], "python_version": "3.12", "extra": ""}
    return {one.name for one in found if one.marker is None or one.marker.evaluate(there)}


@pytest.mark.parametrize(("platform", "engine"), [("macOS", "cpu"), ("Windows", "cpu"), ("Windows", "directml")])
def test_platforms_without_triton_ask_for_no_package_of_linux(platform: str, engine: str) -> None:
    names = wanted(platform, engine, "export", "train", "c2pa", "dev", "docker")
    assert names & LINUX_ONLY == set()
    assert {"tritonclient", "fastapi"} <= names


def test_platforms_engines_of_onnx_runtime() -> None:
    engines = {platform: wanted(platform, "cpu", "gpu", "directml") for platform in PLATFORMS}
    found = {platform: {name for name in names if "onnxruntime" in name} for platform, names in engines.items()}
    assert found == {
        "macOS": {"onnxruntime"},
        "Windows": {"onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"},
        "Linux": {"onnxruntime", "onnxruntime-gpu"},
        "ARM": {"onnxruntime", "onnxruntime-gpu"},
    }


@pytest.mark.parametrize("platform", ["Linux", "ARM"])
def test_platforms_with_triton_ask_for_it(platform: str) -> None:
    assert "nvidia-pytriton" in wanted(platform)


ABSENT = {
    "darwin": ("os.sched_getaffinity os.memfd_create socket.SO_PEERCRED", ""),
    "win32": (
        "os.sched_getaffinity os.memfd_create os.killpg os.setsid os.nice os.fork os.geteuid os.getuid os.O_DIRECTORY "
        "os.O_CLOEXEC os.O_NOFOLLOW os.mkfifo os.getloadavg signal.SIGKILL signal.SIGUSR1 signal.SIGHUP signal.SIGQUIT "
        "socket.AF_UNIX socket.SO_PEERCRED socket.SOCK_SEQPACKET",
        "fcntl resource pwd grp termios",
    ),
}
IMPORTS = """
import importlib, sys, types
platform, names, modules = sys.argv[1:4]
parts = ("supervisor.cli", "proxy.__main__", "darkroom.local.__main__", "exporters.cli", "training.lora.cli")
for part in parts:  # with all that they import of others, which would not be imported on a made-up platform
    importlib.import_module(part)
ours = ("darkroom", "supervisor", "proxy", "exporters", "training")
for module in [name for name in sys.modules if name.partition(".")[0] in ours]:
    del sys.modules[module]
for name in names.split():
    module, _, attribute = name.partition(".")
    vars(sys.modules[module]).pop(attribute, None)
for module in modules.split():
    sys.modules[module] = None
if platform == "win32":
    sys.modules["msvcrt"] = types.ModuleType("msvcrt")
sys.platform = platform
for part in parts:
    importlib.import_module(part)
from darkroom.devices import core_count
from darkroom.files import sync_folder
from darkroom.parallel.processes import own_session, tied_to_us
from supervisor.leftovers import sweep
assert core_count() > 0 and tied_to_us() == {}
sweep()
if platform == "darwin":
    assert own_session() == {"start_new_session": True}
"""


@pytest.mark.parametrize("platform", ABSENT)
def test_platforms_import_everything_without_what_only_linux_has(platform: str) -> None:
    """This says nothing of third-party packages there, which have builds of their own."""
    command = [sys.executable, "-c", IMPORTS, platform, *ABSENT[platform]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


FOLLOWS = """
import os, psutil, sys, time
sys.platform = "darwin"
from darkroom.parallel import processes
processes._LOOK_SECONDS = 0.05
processes.follow_parent()
print("looking", flush=True)
time.sleep(600)
"""


def test_platforms_without_prctl_a_child_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as parent:
        env = {**os.environ, PARENT: str(parent.pid)}
        with subprocess.Popen([sys.executable, "-c", FOLLOWS], cwd=ROOT, env=env, stdout=subprocess.PIPE) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == b"looking\n"
                parent.kill()
                parent.wait()
                assert child.wait(60) == -signal.SIGTERM
            finally:
                child.kill()


def test_lock_is_held_by_one_process(tmp_path: Path) -> None:
    code = (
        f"from darkroom.locks import try_lock; f = open({str(tmp_path / 'lock')!r}, 'w'); print(try_lock(f.fileno()))"
    )
    command = [sys.executable, "-c", code]

    def other() -> str:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout.strip()

    with (tmp_path / "lock").open("w") as file:
        assert try_lock(file.fileno())
        assert other() == "False"
    assert other() == "True"


class Opened:
    """A network on a kind of device, whose outputs are given."""

    def __init__(self, kind: str, output: float | Exception) -> None:
        self.kind, self.output = kind, output

    def execute(self, calls: object) -> list[object]:
        import numpy as np

        return [self.output if isinstance(self.output, Exception) else {"y": np.array([self.output], np.float32)}]


@pytest.mark.parametrize(
    ("output", "kind"), [(1.0, "CoreML"), (float("nan"), "CPU"), (RuntimeError("no kernel\nmore"), "CPU")]
)
def test_accelerator_that_fails_the_canary_is_given_up(
    output: float | Exception, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def build(kind: str, device: int) -> Executable:
        return Opened(kind, output)  # type: ignore[return-value]

    opened = proven("unet", build, "CoreML", lambda: NetworkCall({}, ["y"]), "CPU", 0)
    assert opened.kind == kind  # type: ignore[attr-defined]
    assert ("unet does not work on CoreML" in caplog.text) == (kind == "CPU")


def test_accelerator_is_not_tried_for_networks_on_a_gpu() -> None:
    def build(kind: str, device: int) -> Executable:
        return Opened(f"{kind} {device}", 1.0)  # type: ignore[return-value]

    assert proven("unet", build, "CoreML", None, "GPU", 1).kind == "GPU 1"  # type: ignore[attr-defined]


def test_accelerators_of_this_machine_are_none_on_linux() -> None:
    assert Accelerators.found() == Accelerators()
