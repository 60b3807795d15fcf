"""The engines that run the models: Triton, or the local engine where there is no Triton.

Both are a process beside the proxy that speaks Triton's inference protocol, publishes metrics, and keeps to the folder
of models that the supervisor fills. So the proxy and the rest of the supervisor are the same for both.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from darkroom.serving.networks import ModelSpec
from darkroom.settings import Settings
from supervisor.leftovers import SHM_PREFIX
from supervisor.triton import POLLING, find_triton, triton_command

log = logging.getLogger("darkroom")

EngineName = Literal["triton", "local"]


class Engine(Protocol):
    """A kind of process that runs models."""

    @property
    def name(self) -> EngineName:
        """Its name in settings and logs."""

    @property
    def title(self) -> str:
        """Its name in sentences."""

    def command(self, settings: Settings, repository: Path) -> list[str]:
        """The command line of a process that serves a folder of models."""

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Its environment, given that of the other processes."""

    def has_stubs(self, spec: ModelSpec) -> bool:
        """Whether each instance of this model is a process of its own."""


class Triton:
    """NVIDIA's server, from its container or from the Python package.

    :raises SetupError: there is none, or a part is missing.
    """

    name: EngineName = "triton"
    title = "Triton"

    def __init__(self, settings: Settings) -> None:
        self._install = find_triton(settings.state_dir)

    def command(self, settings: Settings, repository: Path) -> list[str]:
        """See `Engine`."""
        return triton_command(
            self._install,
            repository=repository,
            grpc_port=settings.triton_grpc_port,
            grpc_address=settings.triton_grpc_bind,
            metrics_port=settings.triton_metrics_port,
            metrics_address=settings.triton_metrics_bind,
            http_port=settings.triton_http_port if settings.triton_allow_http else None,
            shm_prefix=f"{SHM_PREFIX}{settings.triton_grpc_port}_",
            extra=POLLING,
        )

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """See `Engine`."""
        return self._install.environment(base)

    def has_stubs(self, spec: ModelSpec) -> bool:
        """NVIDIA's container runs ONNX models inside the server, the wheel runs them in our Python-based backend."""
        return spec.backend == "python" or bool(self._install.backends)


class Local:
    """`python -m darkroom.local`: all models in one process of Python."""

    name: EngineName = "local"
    title = "the local engine"

    def command(self, settings: Settings, repository: Path) -> list[str]:
        """See `Engine`."""
        host = settings.triton_grpc_bind
        address = f"{f'[{host}]' if ':' in host else host}:{settings.triton_grpc_port}"
        options = {
            "--repository": str(repository),
            "--grpc": address,
            "--metrics-port": str(settings.triton_metrics_port),
            "--device": settings.local_device,
        }
        return [sys.executable, "-m", "darkroom.local", *(word for pair in options.items() for word in pair)]

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """See `Engine`."""
        return dict(base)

    def has_stubs(self, spec: ModelSpec) -> bool:
        """All models are in one process, which the supervisor watches anyway."""
        return False


def engine_of(settings: Settings) -> Engine:
    """The engine that ENGINE names; without it Triton, or the local engine where no Triton is installed.

    :raises SetupError: ENGINE asks for Triton, or Triton is installed, but it lacks something.
    """
    if settings.engine == "local" or (settings.engine is None and not triton_is_installed()):
        return Local()
    return Triton(settings)


def triton_is_installed() -> bool:
    """Whether there is a tritonserver on the PATH, or the Python package that has one."""
    return shutil.which("tritonserver") is not None or importlib.util.find_spec("pytriton") is not None
