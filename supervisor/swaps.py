"""Loads and unloads models as the proxy asks, where DEVICE_MEMORY_GB does not hold all of them.

The proxy decides, because it knows the requests; here its wish becomes links of the server's repository. A model that
is to be loaded gets its link only when everything that has to go is unloaded.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from darkroom.devices import gpu_processes
from darkroom.memory.sizes import (
    MEGABYTE,
    Size,
    files_of,
    forget_wanted,
    memory_folder,
    read_sizes,
    read_wanted,
    shown,
    write_sizes,
)
from darkroom.memory.units import models_of, specs_of, units_of
from darkroom.settings import Settings
from supervisor.engines import Engine
from supervisor.served import Served
from supervisor.stubs import Stubs, is_living_stub

log = logging.getLogger("darkroom")

_STUB_BYTES = {"cpu": 120 * MEGABYTE, "gpu": 500 * MEGABYTE}
"""What a process of a model takes besides its weights, before it was measured: Python with its libraries, and on a GPU
the context of CUDA. A pipeline takes nothing of a GPU."""


class Swaps:
    """Keeps the links equal to what the proxy wants.

    :ivar busy: whether models are being unloaded, so that it is worth looking often.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._folder = memory_folder(settings)
        self._on_gpu = bool(settings.gpus)
        self._swappable: frozenset[str] = frozenset()
        self._wanted: frozenset[str] | None = None
        self._leaving: dict[str, list[psutil.Process]] = {}

    @property
    def busy(self) -> bool:
        return bool(self._leaving)

    def read(self) -> bool:
        """Read what the proxy wants; returns whether it has said so."""
        found = read_wanted(self._folder)
        if found is not None:
            self._wanted = found
        return self._wanted is not None

    def begin(self) -> None:
        """Forget what an earlier proxy wanted, and write the sizes of all models, for the proxy that starts."""
        forget_wanted(self._folder)
        self._wanted = None
        models = models_of(self._settings)
        self._swappable = frozenset(model for unit in units_of(models).values() for model in unit.models)
        before = read_sizes(self._folder)
        sizes = {model: self._estimated(model, before.get(model)) for model, _ in specs_of(models)}
        write_sizes(self._folder, sizes)
        total = sum(size.size for size in sizes.values())
        log.info("all models take about %s, DEVICE_MEMORY_GB is %g", shown(total), self._settings.device_memory_gb)

    def forget(self) -> None:
        """Nothing is loaded any more, because the server was restarted."""
        self._leaving = {}

    def wants(self, model: str) -> bool:
        """Whether a model of the repository is to be linked now."""
        return model not in self._swappable or model in (self._wanted or ())

    def step(self, served: Served, health: Mapping[str, Any], stubs: Callable[[], Stubs]) -> frozenset[str]:
        """Remove and add links; returns the models that have just been told to unload.

        :param health: the latest answer of the proxy's /health.
        :param stubs: finds the stubs of the server.
        """
        self.read()
        linked = served.linked()
        going = frozenset(model for model in linked if not self.wants(model))
        if going:
            found = stubs()
            for model in going:
                self._leaving[model] = [process for process, its in found.items() if its == model]
            served.remove(going)
            log.info("unloading %s", ", ".join(sorted(going)))
        loaded = health.get("models", {})
        self._leaving = {m: those for m, those in self._leaving.items() if _is_there(those, loaded.get(m, True))}
        coming = (self._wanted or frozenset()) & self._swappable - linked
        if coming and not self._leaving:
            log.info("loading %s", ", ".join(sorted(coming)))
            served.add(self._networks_first(coming))
        return going

    def seen(self, served: Served, health: dict[str, Any]) -> dict[str, Any]:
        """The answer of /health without the models that are unloaded on purpose."""
        linked = served.linked()
        models = {name: loaded for name, loaded in health.get("models", {}).items() if name in linked}
        families = {
            name: family
            for name, family in health.get("families", {}).items()
            if all(model in models for model in family["models"])
        }
        return {**health, "models": models, "families": families} if "families" in health else health

    def measure(self, models: set[str], stubs: Stubs) -> None:
        """Note what loaded models take, once each: the table must not change with what they work on."""
        sizes = read_sizes(self._folder)
        new = {model for model in models if model in sizes and not sizes[model].measured}
        if not new:
            return
        measured = self._measured({process: model for process, model in stubs.items() if model in new})
        for model, size in measured.items():
            sizes[model] = Size(size=size, measured=True, files=sizes[model].files, device=self._device)
        try:
            write_sizes(self._folder, sizes)
        except OSError as error:
            log.warning("the sizes of models cannot be kept: %s", error)

    @property
    def _device(self) -> Any:
        return "gpu" if self._on_gpu else "cpu"

    def _estimated(self, model: str, before: Size | None) -> Size:
        files = files_of(self._settings.model_repository / model)
        if before is not None and before.measured and (before.files, before.device) == (files, self._device):
            return before
        ((_, spec),) = specs_of([model])
        has_process = self._engine.has_stubs(spec) and (spec.is_network or not self._on_gpu)
        process = _STUB_BYTES[self._device] if has_process else 0
        return Size(size=files + process, files=files, device=self._device)

    def _measured(self, stubs: Stubs) -> dict[str, int]:
        """Bytes that the processes of each model have, on GPUs of the one that has most of them. Empty if the driver
        does not tell it by process, as in containers."""
        used = gpu_processes(self._settings.num_gpus_to_use) if self._on_gpu else [_own_bytes(stubs)]
        if not any(process.pid in device for process in stubs for device in used):
            return {}
        found: dict[str, int] = {}
        for model in set(stubs.values()):
            pids = [process.pid for process, its in stubs.items() if its == model]
            found[model] = max(sum(device.get(pid, 0) for pid in pids) for device in used)
        return found

    def _networks_first(self, models: frozenset[str]) -> list[str]:
        """The order in which links are added: a pipeline looks for its networks when it loads."""
        order = [model for unit in units_of(models_of(self._settings)).values() for model in unit.models]
        return [model for model in order if model in models]


def _is_there(processes: list[psutil.Process], is_loaded: bool) -> bool:
    """Whether a model that is being unloaded still takes memory: its processes have it, if it has any."""
    return any(map(is_living_stub, processes)) if processes else is_loaded


def _own_bytes(stubs: Stubs) -> dict[int, int]:
    """Bytes that each process shares with no other one."""
    found = {}
    for process in stubs:
        with contextlib.suppress(psutil.Error):
            found[process.pid] = int(process.memory_full_info().uss)
    return found
