"""`darkroom upscale`: many files, several at a time, in a run that can be stopped and resumed."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from .cli import PROBE_TIMEOUT, describe
from .client import AsyncClient, Client
from .errors import DarkroomError, InvalidRequest, Unavailable
from .models import Format, UpscaleOptions
from .plan import Job, Plan, make_plan
from .report import Outcome, Reporter, reporter, summary

# More patience than the library has by default: a long run should outlive a restart of the service.
RETRIES = 5


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="INPUT... [OUTPUT]")
@click.option("-o", "--output", metavar="PATH", help="Where to write: a file for one input, else a folder.")
@click.option("-m", "--model", help="A model out of `darkroom info`; the service's default if not given.")
@click.option("-s", "--scale", type=click.FloatRange(1, 8), help="Times as wide and as high; the model's own.")
@click.option("--tile", type=click.IntRange(0, 4096), help="Edge of the tiles, 32 and more input pixels; 0: no tiles.")
@click.option("--tile-pad", type=click.IntRange(0), help="Overlap of the tiles, in input pixels.")
@click.option("-f", "--format", type=click.Choice(["png", "webp", "jpeg"]), help="By the output's name, else png.")
@click.option("-q", "--quality", type=click.IntRange(1, 100), help="Of webp and jpeg.")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Files at a time.")
@click.option("--overwrite", is_flag=True, help="Make outputs again that are there already.")
@click.option("--timeout", type=click.FloatRange(1), default=600, show_default=True, help="Seconds without answer.")
@click.pass_obj
def upscale(
    url: str,
    words: tuple[str, ...],
    output: str | None,
    model: str | None,
    scale: float | None,
    tile: int | None,
    tile_pad: int | None,
    format: Format | None,
    quality: int | None,
    jobs: int,
    overwrite: bool,
    timeout: float,
) -> None:
    """Enlarge pictures: files, folders, or patterns.

    \b
    Examples:
      darkroom upscale in.jpg out.png --model x4plus
      darkroom upscale in.jpg                          writes in-upscaled.png
      darkroom upscale photos/ -o out/                 the pictures of a folder
      darkroom upscale 'photos/**/*.jpg' -o out/       and of its sub-folders
      darkroom upscale *.jpg -o out/ --jobs 4 --format webp --quality 90
      darkroom upscale - - < in.jpg > out.png          as part of a pipe

    An output that is there already is skipped, so a run that was stopped goes on when the same command is given
    again. Inputs are never replaced. The exit code is 0 when every file is done or skipped, 1 when any failed,
    2 for a wrong command, 130 after Ctrl-C.
    """
    plan = make_plan(words, output, format)
    options = UpscaleOptions(
        model=model, scale=scale, tile=tile, tile_pad=tile_pad, format=plan.format, quality=quality
    )
    run = Run(plan=plan, options=options, url=url, jobs=jobs, overwrite=overwrite, timeout=timeout)
    sys.exit(carry_out(run))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of the command."""

    plan: Plan
    options: UpscaleOptions
    url: str
    jobs: int
    overwrite: bool
    timeout: float
    retries: int = RETRIES


def carry_out(run: Run) -> int:
    """Carry a run out and tell of it; the exit code."""
    jobs = run.plan.jobs
    outcomes: list[Outcome] = []
    if sys.stdout.isatty() and any(job.output is None for job in jobs):
        raise click.UsageError("Standard output is a terminal: send it into a file, as in `> out.png`.")
    try:
        piped = _read_stdin(jobs)
        if run.overwrite or not all(job.done_before for job in jobs):
            _ask_once(run)
        with reporter(len(jobs)) as show:
            asyncio.run(_upscale_all(run, piped, show, outcomes))
    except KeyboardInterrupt:
        click.echo(f"Stopped: {summary(outcomes, len(jobs))}", err=True)
        click.echo(_how_to_resume(run), err=True)
        return 130
    if len(jobs) > 1:
        click.echo(summary(outcomes, len(jobs)), err=True)
    if len(outcomes) < len(jobs):
        click.echo(f"The rest would fail in the same way and was not tried. {_how_to_resume(run)}", err=True)
    finished = [outcome for outcome in outcomes if outcome.state != "failed"]
    return 0 if len(finished) == len(jobs) else 1


def _how_to_resume(run: Run) -> str:
    if run.overwrite:
        # Outputs of an earlier run and of this one cannot be told apart.
        how = "The same command starts over; without --overwrite it makes only what is missing."
    else:
        how = "To go on, give the same command again: what is done will be skipped."
    return f"No file is half-written. {how}"


def _ask_once(run: Run) -> None:
    """Fail at once, not after all retries of every file, when there is no service to begin with."""
    with Client(run.url, timeout=PROBE_TIMEOUT) as client:
        try:
            client.health()
        except DarkroomError as error:
            if error.code == "cannot_connect":
                raise


def _read_stdin(jobs: tuple[Job, ...]) -> bytes:
    """Standard input, if a job wants it. Read before the event loop runs: a thread there could not be stopped."""
    if all(job.source for job in jobs):
        return b""
    if sys.stdin.isatty():
        raise click.UsageError("Standard input is a terminal: send a picture into it, as in `< in.jpg`.")
    return sys.stdin.buffer.read()


async def _upscale_all(run: Run, piped: bytes, show: Reporter, outcomes: list[Outcome]) -> None:
    """Work off all jobs, `run.jobs` at a time, appending to `outcomes` what became of each.

    After a failure that all others would share, the jobs that are left are not tried.
    """
    waiting = iter(run.plan.jobs)
    async with AsyncClient(run.url, timeout=run.timeout, retries=run.retries) as client:
        workers = [_worker(run, client, waiting, piped, show, outcomes) for _ in range(run.jobs)]
        await asyncio.gather(*workers)


async def _worker(
    run: Run, client: AsyncClient, waiting: Iterator[Job], piped: bytes, show: Reporter, outcomes: list[Outcome]
) -> None:
    for job in waiting:
        try:
            outcome = await _upscale_one(run, client, job, piped, show)
        except (DarkroomError, OSError) as error:
            outcome = Outcome(job=job, state="failed", detail=describe(error))
            if _is_hopeless(error):
                for _ in waiting:  # leaves nothing for the other workers either
                    pass
        outcomes.append(outcome)
        show.finish(outcome)


def _is_hopeless(error: Exception) -> bool:
    """Whether the files that are left would fail too: nobody answers any more, or there is no such model."""
    if isinstance(error, InvalidRequest):
        return error.param == "model"
    return isinstance(error, Unavailable) and error.code != "connection_lost"


async def _upscale_one(run: Run, client: AsyncClient, job: Job, piped: bytes, show: Reporter) -> Outcome:
    if not run.overwrite and job.done_before:
        return Outcome(job=job, state="skipped")
    started = time.monotonic()
    show.start(job)
    on_progress = partial(show.progress, job) if show.wants_progress else None
    result = await client.upscale(job.source or piped, on_progress=on_progress, **run.options)
    if job.output is None:
        sys.stdout.buffer.write(result.image)
        sys.stdout.buffer.flush()
    else:
        await asyncio.to_thread(write_whole, job.output, result.image)
    seconds = time.monotonic() - started
    return Outcome(job=job, state="done", detail=f"{result.model}, x{result.scale:g}, {seconds:.1f} s")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, even if the machine stops; make its folders.

    :raises OSError: it cannot be written; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile, whose files only their owner can read. No two jobs of one process have the same output.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
