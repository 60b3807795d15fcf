"""The machine and the versions behind the numbers."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import psutil

import darkroom
from darkroom.devices import core_count

ROOT = Path(__file__).resolve().parents[1]

# What decides the speed of convolutions on a CPU, as Linux names it.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_PACKAGES = (
    *("onnxruntime", "onnxruntime-gpu", "torch", "diffusers", "transformers"),
    *("numpy", "pillow", "isal", "grpcio", "fastapi"),
)


def describe() -> dict[str, str]:
    """What a reader must know to compare: processor, memory, system, versions, and how busy the machine was."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = set(_field(cpuinfo, "flags").split())
    kernel = ".".join(platform.release().split(".")[:2])
    found = {
        "cpu": _field(cpuinfo, "model name"),
        "cores": str(core_count()),
        "cpu features": ", ".join(feature for feature in _FEATURES if feature in flags),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {kernel}",
        "load before the run": f"{os.getloadavg()[0]:.2f}",
        "darkroom": f"{darkroom.__version__} ({_revision()})",
        "python": platform.python_version(),
    }
    return found | {name: version for name in _PACKAGES if (version := _version(name))}


def slug(machine: dict[str, str]) -> str:
    """A file name for the machine: "intel-xeon-gold-6338-2-cores", or with a GPU "nvidia-h100-80gb-hbm3"."""
    if "gpu" in machine:
        return "-".join(re.findall(r"[a-z0-9]+", machine["gpu"].lower()))
    name = re.sub(r"\((r|tm)\)|\bcpu\b|\bprocessor\b|@.*", " ", machine["cpu"].lower())
    return "-".join([*re.findall(r"[a-z0-9]+", name), machine["cores"], "cores"])


def _field(cpuinfo: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return found[1] if found else "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
