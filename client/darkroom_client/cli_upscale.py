"""`darkroom upscale`: many files, several at a time, in a run that can be stopped and resumed."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass

import click

from .cli import describe, url_option
from .client import AsyncClient
from .errors import DarkroomError
from .fields import HELP
from .files import write_whole
from .models import Format, UpscaleOptions
from .plan import Plan, UpscaleJob, make_plan
from .report import Outcome, Reporter, State, conclude, reporter, shown
from .runner import RETRIES, ask_once, run_all, run_until_stopped, would_repeat


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="INPUT... [OUTPUT]")
@click.option("-o", "--output", metavar="PATH", help="Where to write: a file for one input, else a folder.")
@click.option("-m", "--model", help="A model of `darkroom info`; the service's default if not given.")
@click.option("-s", "--scale", type=click.FloatRange(1, 8), help=HELP["upscale"]["scale"])
@click.option("--tile", type=click.IntRange(0, 4096), help=HELP["upscale"]["tile"])
@click.option("--tile-pad", type=click.IntRange(0), help=HELP["upscale"]["tile_pad"])
@click.option("-f", "--format", type=click.Choice(["png", "webp", "jpeg"]), help="By the output's name, else png.")
@click.option("-q", "--quality", type=click.IntRange(1, 100), help="Of webp and jpeg.")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Files at a time.")
@click.option("--overwrite", is_flag=True, help="Make outputs again that are there already.")
@click.option("--timeout", type=click.FloatRange(1), default=600, show_default=True, help="Seconds without answer.")
@url_option
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
    """Enlarge images: files, folders, or patterns.

    \b
    Examples:
      darkroom upscale in.jpg out.png --model x4plus
      darkroom upscale in.jpg                          writes in-upscaled.png
      darkroom upscale photos/ -o out/                 the images of a folder
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
    run = UpscaleRun(plan=plan, options=options, url=url, jobs=jobs, overwrite=overwrite, timeout=timeout)
    sys.exit(carry_out(run))


@dataclass(frozen=True, kw_only=True)
class UpscaleRun:
    """One call of the command."""

    plan: Plan
    options: UpscaleOptions
    url: str
    jobs: int
    overwrite: bool
    timeout: float
    retries: int = RETRIES


def carry_out(run: UpscaleRun) -> int:
    """Carry out a run and report it; returns the exit code."""
    jobs = run.plan.jobs
    outcomes: list[Outcome] = []
    if sys.stdout.isatty() and any(job.output is None for job in jobs):
        raise click.UsageError("Standard output is a terminal: send it into a file, as in `> out.png`.")
    try:
        piped = _read_stdin(jobs)
        if run.overwrite or not all(job.done_before for job in jobs):
            ask_once(run.url)
        with reporter(len(jobs), "files") as show:
            stopped = run_until_stopped(_upscale_all(run, piped, show, outcomes))
    except KeyboardInterrupt:
        stopped = 130
    return conclude(outcomes, len(jobs), stopped=stopped, resume=_how_to_resume(run))


def _how_to_resume(run: UpscaleRun) -> str:
    if run.overwrite:
        # Outputs of an earlier run and of this one cannot be distinguished.
        how = "The same command starts over; without --overwrite it makes only what is missing."
    else:
        how = "To go on, give the same command again: what is done will be skipped."
    return f"No file is half-written. {how}"


def _read_stdin(jobs: tuple[UpscaleJob, ...]) -> bytes:
    """Standard input, if a job wants it. Read before the event loop runs: a thread there could not be stopped."""
    if all(job.source for job in jobs):
        return b""
    if sys.stdin.isatty():
        raise click.UsageError("Standard input is a terminal: send an image into it, as in `< in.jpg`.")
    return sys.stdin.buffer.read()


async def _upscale_all(run: UpscaleRun, piped: bytes, show: Reporter, outcomes: list[Outcome]) -> None:
    """Work off all jobs, `run.jobs` at a time, appending to `outcomes` what became of each.

    After a failure that all others would share, the jobs that are left are not tried.
    """
    async with AsyncClient(run.url, timeout=run.timeout, retries=run.retries) as client:

        async def work(job: UpscaleJob) -> bool:
            hopeful = True
            try:
                outcome = await _upscale_one(run, client, job, piped, show)
            except (DarkroomError, OSError) as error:
                outcome = _outcome(job, "failed", describe(error))
                hopeful = not would_repeat(error, shared={"model"})
            outcomes.append(outcome)
            show.report(outcome)
            return hopeful

        await run_all(run.plan.jobs, run.jobs, work)


def _outcome(job: UpscaleJob, state: State, detail: str = "") -> Outcome:
    source, output = shown(job.source, "stdin"), shown(job.output, "stdout")
    return Outcome(source=source, output=output, state=state, detail=detail)


async def _upscale_one(run: UpscaleRun, client: AsyncClient, job: UpscaleJob, piped: bytes, show: Reporter) -> Outcome:
    if not run.overwrite and job.done_before:
        return _outcome(job, "skipped")
    started = time.monotonic()
    with show.bar(shown(job.source, "stdin")) as bar:
        on_progress = bar if show.wants_progress else None
        result = await client.upscale(job.source or piped, on_progress=on_progress, **run.options)
    if job.output is None:
        sys.stdout.buffer.write(result.image)
        sys.stdout.buffer.flush()
    else:
        await asyncio.to_thread(write_whole, job.output, result.image)
    seconds = time.monotonic() - started
    return _outcome(job, "done", f"{result.model}, x{result.scale:g}, {seconds:.1f} s")
