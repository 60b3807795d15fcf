"""`darkroom doctor`: checks whether this machine can serve, and says what to fix."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from sqlite3 import sqlite_version
from typing import Literal

import psutil

from darkroom.devices import gpu_names
from darkroom.home import INSTALL
from darkroom.settings import Settings
from supervisor.engines import triton_is_installed
from supervisor.errors import SetupError
from supervisor.preflight import missing_exports, taken_ports
from supervisor.triton import find_triton, libpython_folder

_MIN_MEMORY = 4 << 30
_MIN_SHARED_MEMORY = 512 << 20
_MIN_DISK = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report; `text` says what was found, or what to fix."""

    topic: str
    state: Literal["ok", "warning", "problem"]
    text: str


def examine(settings: Settings) -> list[Finding]:
    """Run all checks, in the order in which a start would fail on them."""
    local = settings.engine == "local" or (settings.engine is None and not triton_is_installed())
    server: list[Callable[[Settings], Finding]] = [_local] if local else [_libpython, _triton, _numpy]
    before: list[Callable[[Settings], Finding]] = [_python, *server, _engine, _tasks]
    after: list[Callable[[Settings], Finding]] = [_exports, _ports, _memory, _disk]
    if not local:
        after.insert(2, _shared_memory)
    return [
        *(check(settings) for check in before),
        *_families(settings),
        *(check(settings) for check in after),
    ]


def _python(_: Settings) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 10) <= sys.version_info[:2] <= (3, 13)
    return _judge("Python", fits, version, f"{version} is not supported; use Python 3.10 to 3.13.")


def _libpython(_: Settings) -> Finding:
    try:
        return Finding(topic="libpython", state="ok", text=str(libpython_folder()))
    except SetupError as error:
        return Finding(topic="libpython", state="problem", text=str(error))


def _triton(settings: Settings) -> Finding:
    try:
        install = find_triton(settings.state_dir)
    except SetupError as error:
        return Finding(topic="Triton", state="problem", text=str(error))
    return _judge("Triton", install.binary.exists(), f"from {install.source}", f"{install.binary} is missing.")


def _local(settings: Settings) -> Finding:
    why = "as ENGINE says" if settings.engine else "no tritonserver is installed"
    return Finding(topic="engine", state="ok", text=f"the local engine, {why} (docs/local-engine.md)")


def _numpy(_: Settings) -> Finding:
    version = importlib.metadata.version("numpy")
    advice = f"{version} makes every tensor arrive empty in Triton's stub; run: pip install 'numpy<2'"
    return _judge("numpy", version.startswith("1."), version, advice)


def _engine(_: Settings) -> Finding:
    try:
        import onnxruntime
    except ImportError as error:
        return Finding(topic="ONNX Runtime", state="problem", text=f"cannot be imported ({error}); run {INSTALL}")
    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    text = f"{onnxruntime.__version__} with {', '.join(providers)}; GPUs: {', '.join(gpu_names()) or 'none'}"
    if gpu_names() and "CUDA" not in providers:
        advice = f"{text}. The GPU stays unused: run {INSTALL} again to get onnxruntime-gpu."
        return Finding(topic="ONNX Runtime", state="warning", text=advice)
    return Finding(topic="ONNX Runtime", state="ok", text=text)


def _tasks(settings: Settings, python: tuple[int, ...] = sys.version_info[:3], sqlite: str = sqlite_version) -> Finding:
    if settings.database_url and not settings.database_url.startswith("sqlite"):
        return Finding(topic="tasks", state="ok", text="in the database of DATABASE_URL")
    # DBOS asks SQLite for milliseconds there, with unixepoch('subsec'), which older ones answer with NULL.
    fits = python < (3, 12) or tuple(map(int, sqlite.split("."))) >= (3, 42)
    advice = (
        f"SQLite {sqlite} with Python {python[0]}.{python[1]}: from Python 3.12 on durable tasks need SQLite 3.42. "
        "Use Python 3.10 or 3.11, a Python with a newer SQLite, or PostgreSQL (DATABASE_URL)."
    )
    return _judge("tasks", fits, f"in SQLite {sqlite}", advice)


def _families(settings: Settings) -> list[Finding]:
    """Return a line for each family that has a problem or a notice."""
    findings = []
    for name, family in settings.family_settings.items():
        problems, summary = family.problems(settings.gpus), family.summary()
        if problems or summary:
            findings.append(_judge(name, not problems, summary, " ".join(problems)))
    return findings


def _exports(settings: Settings) -> Finding:
    problems = missing_exports(settings)
    return _judge("models", not problems, "all exported", " ".join(problems), "warning")


def _ports(settings: Settings) -> Finding:
    problems = taken_ports(settings)
    ports = f"{settings.port}, {settings.triton_grpc_port}, {settings.triton_metrics_port} are free"
    return Finding(topic="ports", state="warning" if problems else "ok", text=" ".join(problems) or ports)


def _shared_memory(_: Settings) -> Finding:
    free = shutil.disk_usage("/dev/shm").free
    advice = f"{_size(free)} free in /dev/shm; large images need {_size(_MIN_SHARED_MEMORY)} (Docker: --shm-size=1g)."
    return _judge("/dev/shm", free >= _MIN_SHARED_MEMORY, f"{_size(free)} free", advice, "warning")


def _memory(_: Settings) -> Finding:
    free = psutil.virtual_memory().available
    advice = f"{_size(free)} available; {_size(_MIN_MEMORY)} are advised."
    return _judge("memory", free >= _MIN_MEMORY, f"{_size(free)} available", advice, "warning")


def _disk(settings: Settings) -> Finding:
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.state_dir).free
    advice = f"{_size(free)} free for {settings.state_dir}; {_size(_MIN_DISK)} are advised."
    return _judge("disk", free >= _MIN_DISK, f"{_size(free)} free", advice, "warning")


def _judge(
    topic: str, fits: bool, text: str, advice: str, otherwise: Literal["warning", "problem"] = "problem"
) -> Finding:
    return Finding(topic=topic, state="ok" if fits else otherwise, text=text if fits else advice)


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GB"
