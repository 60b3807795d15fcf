"""Seconds from a request to its first step, with a loaded family and with one that takes the place of another."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.context import Context
from benchmarks.errors import BenchmarkError
from benchmarks.results import Cell, Section, Table
from benchmarks.service import RunningService, link_models, running_service, server_settings
from darkroom.memory.sizes import GIGABYTE, memory_folder, read_sizes
from darkroom.memory.units import Unit, units_of
from darkroom.registry import families
from darkroom.settings import Settings

_SECONDS = 900.0
_MEASURED_SECONDS = 30.0
_PLENTY_GB = 1_000_000
_FIELDS = {"prompt": "a red car on a blue background", "steps": 4, "width": 128, "height": 128}


def run(context: Context) -> Section:
    """Requests to the families that make images, in turns, within a budget that holds one of them."""
    title = "Families that take turns in the memory of a device"
    units = _units(context.repository)
    if len(units) < 2:
        return Section(name="swapping", title=title, missing="it takes two exported families that make images.")
    context.stop_servers()
    with tempfile.TemporaryDirectory(prefix="darkroom-swapping-") as name:
        folder = Path(name)
        models = [model for unit in units for model in unit.models]
        repository = link_models(folder / "repository", *models, source=context.repository)
        used: dict[str, Any] = {**server_settings(folder), "model_repository": repository}
        sizes = _sizes(context, folder, used, units)
        budget = math.ceil(max(sizes.values()) * 1000) / 1000
        rounds = context.choose(5, 1)
        warm: dict[str, list[float]] = {unit.name: [] for unit in units}
        swapped: dict[str, list[float]] = {unit.name: [] for unit in units}
        context.stage("families in turns", rounds)
        (folder / "service").mkdir()
        with running_service(folder / "service", **used, device_memory_gb=budget) as service:
            for number in range(rounds):
                for unit in units:
                    if not _is_loaded(service, unit.name):
                        swapped[unit.name].append(_first_step(service, unit.name))
                    warm[unit.name].append(_first_step(service, unit.name))
                context.step(number + 1)
    rows: list[tuple[Cell, ...]] = [
        (unit.name, sizes[unit.name], _median(warm[unit.name]), _median(swapped[unit.name])) for unit in units
    ]
    table = Table(
        title=f"Seconds to the first step, medians of {rounds} rounds; DEVICE_MEMORY_GB = {budget:g}",
        columns=("", "GB", "loaded", "in place of another"),
        rows=tuple(rows),
        note="A loaded one includes the text encoders. Of the other one, unloading, loading and the canaries, too.",
    )
    return Section(name="swapping", title=title, tables=(table,))


def _units(repository: Path) -> list[Unit]:
    makers = {family.pipeline.name for family in families().values() if family.operation == "generate"}
    units = units_of(path.name for path in repository.iterdir() if path.is_dir())
    return [unit for name, unit in sorted(units.items()) if name in makers]


def _sizes(context: Context, folder: Path, used: Mapping[str, Any], units: Sequence[Unit]) -> dict[str, float]:
    """Gigabytes that each family takes, with all of them loaded; estimates where nobody says what a process has."""
    context.stage("measuring what families take")
    (folder / "all").mkdir()
    with running_service(folder / "all", **used, device_memory_gb=_PLENTY_GB):
        place = memory_folder(Settings(_env_file=None, state_dir=used["state_dir"], port=used["port"]))
        deadline = time.monotonic() + _MEASURED_SECONDS
        sizes = read_sizes(place)
        while not all(one.measured for one in sizes.values()) and time.monotonic() < deadline:
            time.sleep(0.1)
            sizes = read_sizes(place)
    return {unit.name: sum(sizes[model].size for model in unit.models) / GIGABYTE for unit in units}


def _is_loaded(service: RunningService, name: str) -> bool:
    answer = service.health()
    return answer is not None and bool(answer.json()["families"][name]["loaded"])


def _first_step(service: RunningService, name: str) -> float:
    """Seconds from a request to its first step; the request is read to its end."""
    began, first = time.perf_counter(), None
    body, headers = {"model": name, **_FIELDS}, {"Accept": "text/event-stream"}
    with httpx.stream("POST", f"{service.url}/generate", json=body, headers=headers, timeout=_SECONDS) as answer:
        for line in answer.iter_lines():
            if line == "event: progress" and first is None:
                first = time.perf_counter() - began
            if line == "event: error":
                raise BenchmarkError(f"{name} has answered with an error.")
    if first is None:
        raise BenchmarkError(f"{name} has made no step.")
    return first


def _median(seconds: Sequence[float]) -> float | None:
    return statistics.median(seconds) if seconds else None
