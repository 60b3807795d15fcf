"""A run of `darkroom generate`: send the requests, write the images to files, and report progress."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click

from .cli import describe
from .client import AsyncClient
from .errors import DarkroomError, InvalidRequest
from .files import is_there, write_whole
from .grid import make_grid
from .models import GenerateOptions, GenerateResult, Preview
from .report import Outcome, Reporter, State, conclude, reporter, shown
from .runner import RETRIES, ask_once, field_of, run_all, run_until_stopped, would_repeat
from .shots import Shot, ShotPlan, split_into_requests

# What a service takes in one request unless it is set to less, which is found out. More in one would gain nothing,
# since steps of different requests are computed together, and it would lose more when the run is stopped.
PER_REQUEST = 8

TITLE_LENGTH = 60  # characters of a prompt that are shown

# What all requests of a run have in common: if one of these is refused, it will be refused again.
_SHARED = GenerateOptions.__annotations__.keys() - {"seed", "num_images"}


@dataclass(frozen=True, kw_only=True)
class GenerateRun:
    """One call of the command.

    :param options: for all requests; the format among them, seed and num_images not.
    :param random_seed: the seed was not given but chosen at random; it is shown so that the run can be resumed.
    :param control_map: where to write the image that steered.
    :param preview: keep an image of the state beside the output while a request runs.
    :param spelling: options of the command line by the fields whose names are not theirs.
    """

    plan: ShotPlan
    options: GenerateOptions
    url: str
    jobs: int
    timeout: float
    overwrite: bool
    random_seed: bool
    control_map: Path | None = None
    preview: bool = False
    as_json: bool = False
    spelling: Mapping[str, str] = field(default_factory=dict)
    retries: int = RETRIES

    @property
    def to_stdout(self) -> bool:
        """Whether an image goes to standard output."""
        if self.plan.grid != "none":
            return self.plan.grid_output is None
        return any(shot.output is None for shot in self.plan.shots)


def carry_out(run: GenerateRun) -> int:
    """Carry out a run and report it; returns the exit code."""
    _refuse_nonsense(run)
    shots, outcomes, stopped = run.plan.shots, list[Outcome](), 0
    try:
        with reporter(len(shots), "images") as show:
            session = Session(run, show, outcomes)
            if session.grid_is_there and run.plan.grid == "only":
                session.report_grid("skipped")
                return 0
            left = session.skip_what_is_there()
            if left:
                ask_once(run.url)
                stopped = run_until_stopped(session.send_all(split_into_requests(left, PER_REQUEST)))
            if run.plan.grid != "none" and not stopped:
                session.make_grid()
    except KeyboardInterrupt:
        stopped = 130
    return conclude(outcomes, len(shots), stopped=stopped, resume=_how_to_resume(run))


def _refuse_nonsense(run: GenerateRun) -> None:
    if run.to_stdout and sys.stdout.isatty():
        raise click.UsageError("Standard output is a terminal: send it into a file, as in `> out.png`.")
    if run.to_stdout and run.as_json:
        raise click.UsageError("Standard output cannot hold both an image and --json.")
    if run.preview and any(shot.output is None for shot in run.plan.shots):
        raise click.UsageError("--preview needs files to stand beside: give a folder or a file with -o.")


def _how_to_resume(run: GenerateRun) -> str:
    seed = run.plan.shots[0].seed
    with_seed = f" with --seed {seed}" if run.random_seed else ""
    if run.plan.grid == "only":
        return f"No grid was written. To get this one, give the same command again{with_seed}; it starts over."
    if run.overwrite:
        return f"No file is half-written. The same command{with_seed}, without --overwrite, makes what is missing."
    return f"No file is half-written. To go on, give the same command again{with_seed}: what is done will be skipped."


class Session:
    """A run while it runs. `outcomes` gets what became of each image."""

    def __init__(self, run: GenerateRun, show: Reporter, outcomes: list[Outcome]) -> None:
        self._run = run
        self._show = show
        self._outcomes = outcomes
        self._pictures: dict[Shot, bytes] = {}  # for the grid, if the images have no files of their own
        self._control_map = run.control_map

    @property
    def grid_is_there(self) -> bool:
        """Whether the grid was made before, and is not to be made again."""
        return is_there(self._run.plan.grid_output) and not self._run.overwrite

    def skip_what_is_there(self) -> list[Shot]:
        """The shots that have to be made."""
        left = []
        for shot in self._run.plan.shots:
            if shot.done_before and not self._run.overwrite:
                self._report_shots([shot], "skipped")
            else:
                left.append(shot)
        return left

    async def send_all(self, requests: Sequence[tuple[Shot, ...]]) -> None:
        """Send all requests. After a failure that all others would share, those that are left are not sent."""
        run = self._run
        async with AsyncClient(run.url, timeout=run.timeout, retries=run.retries) as client:
            await run_all(requests, run.jobs, lambda shots: self._work(client, shots))

    async def _work(self, client: AsyncClient, shots: tuple[Shot, ...]) -> bool:
        started = time.monotonic()
        try:
            result = await self._send(client, shots)
        except DarkroomError as error:
            if isinstance(error, InvalidRequest) and error.param == "num_images" and len(shots) > 1:
                half = len(shots) // 2
                return await self._work(client, shots[:half]) and await self._work(client, shots[half:])
            self._report_shots(shots, "failed", self._reason(error))
            return not would_repeat(error, _SHARED)
        except OSError as error:  # a preview that cannot be written
            self._report_shots(shots, "failed", describe(error))
            return True
        seconds = f"{time.monotonic() - started:.1f} s" + (f" for {len(shots)}" if len(shots) > 1 else "")
        for shot, image in zip(shots, result.images, strict=True):
            try:
                await asyncio.to_thread(self._keep, shot, image.data)
                self._report_shots([shot], "done", f"seed {image.seed}, {result.width}x{result.height}, {seconds}")
            except OSError as error:
                self._report_shots([shot], "failed", describe(error))
        self._write_control_map(result.control_map)
        return True

    async def _send(self, client: AsyncClient, shots: tuple[Shot, ...]) -> GenerateResult:
        first, preview = shots[0], _PreviewFile(shots[0].output)
        options: GenerateOptions = {**self._run.options, "seed": first.seed, "num_images": len(shots)}
        try:
            with self._show.bar(self._bar_title(shots)) as bar:
                return await client.generate(
                    first.prompt,
                    on_progress=bar if self._show.wants_progress else None,
                    on_preview=preview.write if self._run.preview else None,
                    **options,
                )
        finally:
            preview.remove()

    def _bar_title(self, shots: tuple[Shot, ...]) -> str:
        """The prompt, and the seeds where it has several requests, in a length that leaves room for the bar."""
        title = _title(shots[0].prompt, 30)
        of_prompt = sum(shot.prompt == shots[0].prompt for shot in self._run.plan.shots)
        return title if of_prompt == len(shots) else f"{title} [{shots[0].seed}..{shots[-1].seed}]"

    def _keep(self, shot: Shot, data: bytes) -> None:
        if self._run.plan.grid == "only":
            self._pictures[shot] = data
        elif shot.output is None:
            _to_stdout(data)
        else:
            write_whole(shot.output, data)

    def _reason(self, error: DarkroomError) -> str:
        option = self._run.spelling.get(field_of(error.param))
        return f"{describe(error)} ({option})" if option else describe(error)

    def _write_control_map(self, data: bytes | None) -> None:
        """The first one that comes is the one of all requests."""
        path, self._control_map = self._control_map, None
        if path is None or data is None:
            return
        state, detail = self._written(path, data, "what steered")
        self._report(Outcome(source="control map", output=shown(path), state=state, detail=detail, count=0))

    def make_grid(self) -> None:
        """Put all images into one, if all are there."""
        run, plan = self._run, self._run.plan
        if sum(outcome.count for outcome in self._outcomes) < len(plan.shots):
            return  # those are reported already
        if any(outcome.state == "failed" and outcome.count for outcome in self._outcomes):
            self.report_grid("failed", "some of its images are missing")
        elif self.grid_is_there:
            self.report_grid("skipped")
        else:
            try:
                kept = self._pictures
                pictures = [kept[shot] if shot in kept else _read(shot.output) for shot in plan.shots]
                grid = make_grid(pictures, plan.columns, plan.format, run.options.get("quality"))
            except (OSError, ValueError) as error:
                self.report_grid("failed", describe(error))
            else:
                self.report_grid(*self._written(plan.grid_output, grid, f"{len(pictures)} images"))

    def _written(self, path: Path | None, data: bytes, detail: str) -> tuple[State, str]:
        """Write one more file that is no image of its own; what became of it."""
        if is_there(path) and not self._run.overwrite:
            return "skipped", ""
        try:
            if path is None:
                _to_stdout(data)
            else:
                write_whole(path, data)
        except OSError as error:
            return "failed", describe(error)
        return "done", detail

    def report_grid(self, state: State, detail: str = "") -> None:
        """Say what became of the grid, which is not counted among the images."""
        path = self._run.plan.grid_output
        self._report(Outcome(source="grid", output=shown(path, "stdout"), state=state, detail=detail, count=0))
        self._print_json({"grid": _plain(path)}, state, detail)

    def _report_shots(self, shots: Sequence[Shot], state: State, detail: str = "") -> None:
        prompt, count = _title(shots[0].prompt), len(shots)
        source = f"{prompt} ({count} images)" if count > 1 else prompt
        output = "the grid" if self._run.plan.grid == "only" else shown(shots[0].output, "stdout")
        self._report(Outcome(source=source, output=output, state=state, detail=detail, count=count))
        for shot in shots:
            picture: dict[str, object] = {"prompt": shot.prompt, "seed": shot.seed, "file": _plain(shot.output)}
            self._print_json(picture, state, detail)

    def _report(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._show.report(outcome)

    def _print_json(self, what: dict[str, object], state: State, detail: str) -> None:
        if self._run.as_json:
            error = {"error": detail} if state == "failed" else {}
            click.echo(json.dumps({**what, "state": state, **error}))


class _PreviewFile:
    """NAME.preview.png (or what the service sends) beside an output, while that is not there yet."""

    def __init__(self, output: Path | None) -> None:
        self._output = output
        self._written: set[Path] = set()

    def write(self, preview: Preview) -> None:
        if self._output is None:
            return
        suffix = preview.media_type.rpartition("/")[2]
        path = self._output.with_name(f"{self._output.stem}.preview.{suffix}")
        write_whole(path, preview.image)
        self._written.add(path)

    def remove(self) -> None:
        for path in self._written:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _read(path: Path | None) -> bytes:
    assert path is not None  # only images of a folder are read again
    return path.read_bytes()


def _to_stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _plain(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)


def _title(prompt: str, length: int = TITLE_LENGTH) -> str:
    text = shown(prompt)
    return text if len(text) <= length else text[: length - 3] + "..."
