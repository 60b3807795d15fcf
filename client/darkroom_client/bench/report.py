"""The results of a benchmark as a table for people and as JSON for programs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..report import shown
from .apis import Options
from .figures import NEEDED, Level, Spread
from .load import Plan


@dataclass(frozen=True, kw_only=True)
class Run:
    """One benchmark.

    :param started: time of the start in ISO 8601.
    :param stopped: whether it was interrupted.
    """

    url: str
    api: str
    started: str
    options: Options
    plan: Plan
    levels: Sequence[Level]
    stopped: bool = False


def title(run: Run) -> str:
    """Return what was measured, in one line."""
    options = run.options
    parts = [f"{run.api} API of {shown(run.url)}"]
    parts += [f"model {shown(options.model)}"] if options.model else []
    parts += [f"{options.size[0]}x{options.size[1]}"] if options.size else []
    parts += [f"{options.steps} steps"] if options.steps and run.api != "openai" else []
    parts += [f"{options.images} images a request"] if options.images > 1 else []
    parts += ["streamed"] if options.stream else []
    return ", ".join(parts)


def table(run: Run) -> Table:
    """Return the figures of all levels, seconds in three places."""
    previews = any(level.first_preview.count for level in run.levels)
    columns = ["clients", "requests", "errors", "images/s", "p50 s", "p95 s", "p99 s", "max s"]
    made = Table(*columns, *(["first preview p50 s"] if previews else []), box=box.SIMPLE, title=Text(title(run)))
    for column in made.columns:
        column.justify = "right"
    for level in run.levels:
        latency = level.latency
        row = [
            str(level.concurrency),
            f"{len(level.samples)}{'' if level.complete else ' *'}",
            str(sum(level.errors.values())),
            _number(level.images_per_second),
            *(_number(value) for value in (latency.p50, latency.p95, latency.p99, latency.largest)),
        ]
        made.add_row(*row, *([_number(level.first_preview.p50)] if previews else []))
    return made


def notes(run: Run) -> list[str]:
    """Return what has to be known to read the table, a sentence each."""
    said = []
    for percent in (95, 99):
        few = [level for level in run.levels if 0 < level.latency.count < NEEDED[percent]]
        if few:
            which = ", ".join(f"{level.concurrency} ({level.latency.count})" for level in few)
            said.append(f"P{percent} needs {NEEDED[percent]} answers; too few with clients: {which}.")
    if any(not level.complete for level in run.levels):
        said.append("* was not measured to its end.")
    for level in run.levels:
        kinds = ", ".join(f"{count} x {shown(kind)}" for kind, count in level.errors.items())
        said += [f"Errors with {level.concurrency} client(s): {kinds}."] if kinds else []
    return said


def as_json(run: Run) -> dict[str, Any]:
    """Return everything that was measured, with each single request, so that other figures can be made of it."""
    return {
        "tool": f"darkroom bench {version('darkroom-client')}",
        "client": {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()},
        "url": run.url,
        "api": run.api,
        "started": run.started,
        "stopped": run.stopped,
        "request": {**asdict(run.options), "fields": dict(run.options.fields)},
        "plan": {**asdict(run.plan), "levels": list(run.plan.levels), "prompts": list(run.plan.prompts)},
        "levels": [_level(level) for level in run.levels],
    }


def _level(level: Level) -> dict[str, Any]:
    return {
        "clients": level.concurrency,
        "complete": level.complete,
        "requests": len(level.samples),
        "seconds": level.seconds,
        "images": level.images,
        "images_per_second": level.images_per_second,
        "latency": _spread(level.latency),
        "first_preview": _spread(level.first_preview) if level.first_preview.count else None,
        "errors": level.errors,
        "samples": [asdict(sample) for sample in level.samples],
    }


def _spread(spread: Spread) -> dict[str, float | int | None]:
    return asdict(spread)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
