"""What is measured, and the work folder in which the phases leave their results for each other."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.errors import BenchmarkError
from benchmarks.sd15.checkpoints import Size
from benchmarks.sd15.jobs import Job, make_jobs
from exporters.manifest import Precision

CLIENTS = 8
OURS, EAGER, COMPILED = "darkroom", "diffusers-eager", "diffusers-compiled"


@dataclass(frozen=True, kw_only=True)
class Case:
    """The checkpoint, where it runs, and the images that are asked for."""

    size: Size
    device: str
    precision: Precision
    side: int
    steps: int

    def jobs(self, count: int) -> list[Job]:
        """So many jobs of this case, with guidance."""
        return make_jobs(count, steps=self.steps, side=self.side)


FULL = Case(size="full", device="cuda", precision="fp16", side=512, steps=20)
TINY = Case(size="demo", device="cpu", precision="fp32", side=64, steps=4)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much is measured: jobs that do not count, jobs one at a time, and jobs of CLIENTS clients."""

    warmups: int = 2
    alone: int = 8
    together: int = 2 * CLIENTS


QUICK = Counts(warmups=1, alone=2, together=CLIENTS)


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work folder: checkpoint/, model_repository/, case.json; per subject a .json, a .png and logs/SUBJECT/."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def repository(self) -> Path:
        return self.folder / "model_repository"

    def case(self) -> Case:
        """What `prepare` was run for.

        :raises BenchmarkError: it was not.
        """
        found = self.read("case")
        if found is None:
            raise BenchmarkError(f"{self.folder} is not prepared; run: python -m benchmarks.gpu_sd15 prepare")
        return Case(**found)

    def set_case(self, case: Case) -> None:
        """Note what the folder is for.

        :raises BenchmarkError: it is for something else already.
        """
        found = self.read("case")
        if found is not None and Case(**found) != case:
            raise BenchmarkError(f"{self.folder} was prepared for another case; choose another folder.")
        self.write("case", dataclasses.asdict(case))

    def read(self, name: str) -> dict[str, Any] | None:
        """A result, or None where there is none."""
        path = self.folder / f"{name}.json"
        content: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        return content

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Keep a result; a program that is stopped meanwhile leaves the old one or none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        made = self.folder / f".{name}.json"
        made.write_text(json.dumps(content, indent=1) + "\n")
        made.replace(self.folder / f"{name}.json")

    def logs(self, name: str) -> Path:
        """What a subject logs."""
        return self.folder / "logs" / name

    def picture(self, name: str) -> Path:
        """The image that a subject made of the first job."""
        return self.folder / f"{name}.png"


def clock() -> Callable[[str], None]:
    """Prints what it is told behind the seconds since now."""
    began = time.perf_counter()
    return lambda text: click.echo(f"[{time.perf_counter() - began:6.1f} s] {text}")
