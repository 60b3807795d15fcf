"""Fixtures that every test folder shares: both clients, a tiny HiDream, and real tritonservers over a given repository.

With `-n 2` two workers share the cores; tests/workers.py says which tests run in one of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from xdist.remote import Producer

from benchmarks.processes import free_port
from exporters.manifest import exporter_hash
from supervisor.leftovers import sweep_shared_memory
from supervisor.triton import find_triton, triton_command
from tests.clients import CALLS, Call
from tests.workers import GroupScheduling, bring_together

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of one worker would wait for those of the other


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option `--engine`, for the services that tests start."""
    parser.addoption("--engine", choices=["triton", "local"], help="What runs the models of services: sets ENGINE.")


def pytest_configure(config: pytest.Config) -> None:
    """Services read ENGINE from the environment."""
    if engine := config.getoption("--engine"):
        os.environ["ENGINE"] = engine


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling:
    """The scheduler of `-n`."""
    return GroupScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that share a service run one after the other, also without `-n`."""
    bring_together(items)


def heed_ctrl_c() -> None:
    """For `preexec_fn`: programs that a script starts in the background ignore SIGINT, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stopped_by(number: signal.Signals, command: list[str], reached: threading.Event) -> tuple[int, str]:
    """Exit code and standard error of a command that gets a signal once the event is set."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    try:
        assert reached.wait(60)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in said
    return process.returncode, said


@pytest.fixture(params=list(CALLS))
def call(request: pytest.FixtureRequest) -> Call:
    """Calls a method of the synchronous client, and in a second run of the test of the asynchronous one."""
    return CALLS[request.param]


@pytest.fixture(scope="session")
def hidream_repository(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m exporters hidream` makes of a tiny checkpoint in an empty repository."""
    from tests import tiny_hidream  # which imports torch and diffusers

    made = tmp_path_factory.mktemp("hidream") / "checkpoint"
    tiny_hidream.write_checkpoint(made)
    return exported(pytestconfig, made, "hidream", "--checkpoint", ".")


@pytest.fixture(scope="session")
def sdxl_repository(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m exporters sdxl` makes of a tiny base and its refiner in an empty repository."""
    from tests import tiny_sdxl  # which imports torch and diffusers

    made = tmp_path_factory.mktemp("sdxl") / "checkpoint"
    tiny_sdxl.write_refiner(made / "refiner", tiny_sdxl.write_checkpoint(made / "base"))
    return exported(pytestconfig, made, "sdxl", "--checkpoint", "base", "--refiner", "refiner")


@pytest.fixture(scope="session")
def qwen_edit_repository(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m exporters qwen-edit` makes of a tiny checkpoint of the plus models in an empty repository."""
    from tests.families.qwen_edit import tiny  # which imports torch and diffusers

    made = tmp_path_factory.mktemp("qwen_edit") / "checkpoint"
    tiny.write_checkpoint(made, plus=True)
    return exported(pytestconfig, made, "qwen-edit", "--checkpoint", ".")


def exported(pytestconfig: pytest.Config, made: Path, family: str, *arguments: str) -> Path:
    """The repository that a command of `python -m exporters` makes of checkpoints.

    That takes a minute, so pytest's cache keeps it for other workers and later runs under a hash of the checkpoints,
    and the command sees for itself whether anything that shapes an export has changed.

    :param made: the folder of the checkpoints, in which the command runs.
    """
    files = sorted(path for path in made.rglob("*") if path.is_file())
    cache = getattr(pytestconfig, "cache", None)  # not there with -p no:cacheprovider
    kept = cache.mkdir(family) if cache else made.parent / "kept"
    folder = kept / exporter_hash(files, *(str(path.relative_to(made)) for path in files))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "checkpoint").exists():
            shutil.copytree(made, folder / "copying", dirs_exist_ok=True)
            (folder / "copying").rename(folder / "checkpoint")
        command = [sys.executable, "-m", "exporters", family, *arguments, "--output", str(folder / "repository")]
        subprocess.run(command, cwd=folder / "checkpoint", check=True, capture_output=True, timeout=600)
    return folder / "repository"


@dataclass
class RunningTriton:
    """A real tritonserver that a test started."""

    process: subprocess.Popen[bytes]
    grpc: str
    metrics: str
    log: Path

    def client(self) -> grpcclient.InferenceServerClient:
        return grpcclient.InferenceServerClient(self.grpc)


@contextlib.contextmanager
def running_triton(repository: Path, work: Path, *extra: str, timeout: float = 300) -> Iterator[RunningTriton]:
    """Start the tritonserver of this environment over `repository`; stop it at the end.

    Models that fail to load do not stop the server, so that tests can look at their errors.
    """
    work.mkdir(parents=True, exist_ok=True)
    grpc_port, metrics_port, prefix = free_port(), free_port(), f"darkroom_test_{free_port()}_"
    install = find_triton(work)
    options = ("--exit-on-error=false", "--strict-readiness=false", *extra)
    command = triton_command(
        install,
        repository=repository,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        shm_prefix=prefix,
        extra=options,
    )
    log = work / "triton.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=install.environment(), stdout=out, stderr=out)
    server = RunningTriton(process, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{metrics_port}/metrics", log)
    try:
        _wait_until(lambda: _is_live(server), timeout, server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        sweep_shared_memory(prefix)


def _is_live(server: RunningTriton) -> bool:
    try:
        with server.client() as client:
            return bool(client.is_server_ready())
    except grpcclient.InferenceServerException:
        return False


def _wait_until(done: Callable[[], bool], timeout: float, server: RunningTriton) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        if server.process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"tritonserver did not start:\n{server.log.read_text()[-4000:]}")
        time.sleep(0.1)
