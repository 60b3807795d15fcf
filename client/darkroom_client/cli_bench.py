"""`darkroom bench`."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from . import calls
from .bench import load, plot, report
from .bench.apis import APIS, Api, Options
from .bench.detect import detect, split_address
from .bench.figures import Level
from .bench.load import Plan
from .bench.prompts import PROMPTS, SEED
from .cli import url_option
from .runner import run_until_stopped

_MAX_CLIENTS = 1000


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Numbers of clients with commas between them."""
    words = [word.strip() for word in value.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= _MAX_CLIENTS for word in words):
        raise click.BadParameter(f"must be numbers from 1 to {_MAX_CLIENTS} with commas between them; got {value!r}")
    return tuple(int(word) for word in words)


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Width and height in pixels, as 512x512."""
    if value is None:
        return None
    words = value.lower().split("x")
    if len(words) != 2 or not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise click.BadParameter(f"must be two numbers with an x between them, such as 512x512; got {value!r}")
    return int(words[0]), int(words[1])


def _fields(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """Fields of the request's JSON, each as NAME=VALUE. What is no JSON is text."""
    fields: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"must be NAME=VALUE; got {value!r}")
        try:
            fields[name] = json.loads(text)
        except ValueError:
            fields[name] = text
    return fields


@click.command(short_help="Measure an image server")
@click.argument("address", metavar="[URL]", required=False)
@click.option("--api", type=click.Choice(["auto", *APIS]), default="auto", show_default=True, help="What it speaks.")
@click.option(
    "-c", "--concurrency", callback=_numbers, default="1,2,4,8", show_default=True, help="Numbers of clients, in turn."
)
@click.option("-n", "--requests", type=click.IntRange(1, 1_000_000), help="Requests for each number of clients.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 86_400), default=30.0, show_default=True, help="Or: how long each."
)
@click.option(
    "--warmup", type=click.IntRange(0, 1000), default=1, show_default=True, help="Requests of each client first."
)
@click.option("--model", help="Model to ask for. Default: the server's own.")
@click.option(
    "--size", metavar="WxH", callback=_size, help="Width and height of the images. Default: the server's own."
)
@click.option("--steps", type=click.IntRange(1, 1000), help="Denoising steps; OpenAI's API has no such field.")
@click.option("--images", type=click.IntRange(1, 64), default=1, show_default=True, help="Images of each request.")
@click.option("--stream", is_flag=True, help="Ask for events, and measure the time to the first preview.")
@click.option(
    "--preview-every", type=click.IntRange(1, 1000), default=5, show_default=True, help="Steps, with --stream."
)
@click.option(
    "--field",
    "fields",
    metavar="NAME=VALUE",
    callback=_fields,
    multiple=True,
    help="A further field of the request; VALUE may be JSON.",
)
@click.option(
    "--prompts", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File with a prompt a line."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=SEED, show_default=True, help="Seed of the first request."
)
@click.option(
    "--timeout", type=click.FloatRange(1, 86_400), default=600.0, show_default=True, help="Seconds of silence."
)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, allow_dash=True), help="Write all figures; - is stdout."
)
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), help="Draw a .png, .svg or .pdf.")
@url_option
def bench(url: str, address: str | None, api: str, json_file: str | None, plot_file: Path | None, **given: Any) -> None:
    """Measure an image server: images per second, latency, time to the first preview, errors.

    For Darkroom, and for any server with OpenAI's images API or AUTOMATIC1111's. Each client waits for its answer
    before it sends the next request (a closed loop). Prompts and seeds are always the same. Nothing is retried.
    A percentile is left out where there are too few answers for it. Previews cost the server time, so compare only
    runs that are both with --stream or both without. Ctrl-C shows what is measured so far.

    \b
    Examples:
      darkroom bench                                        the service of --url
      darkroom bench http://127.0.0.1:7860 --api a1111 --steps 20 --size 512x512
      darkroom bench http://127.0.0.1:8000/v1 --model gpt-image-1 -c 1,4,16 -n 100
      darkroom bench --stream --json run.json --plot run.svg
    """
    base, named = split_address(address or url)
    options, plan = _options(given), _plan(given)
    if plot_file is not None:
        plot.check(plot_file)
    chosen = APIS.get(named or "") if api == "auto" else APIS[api]
    if options.stream and chosen is not None and not chosen.can_stream:
        raise click.UsageError(f"--stream: the {chosen.name} API has no events.")
    work = _Work(base=base, api=chosen, options=options, plan=plan, timeout=given["timeout"])
    code = run_until_stopped(work.run())
    if work.api is None or not any(level.samples for level in work.levels):
        sys.exit(code or 1)
    _show(work.result(stopped=code != 0), json_file, plot_file)
    failed = not any(level.images for level in work.levels)
    sys.exit(code or int(failed))


class _Work:
    """One benchmark and what it has measured so far, which Ctrl-C leaves in place."""

    def __init__(self, *, base: str, api: Api | None, options: Options, plan: Plan, timeout: float) -> None:
        self.api = api
        self.levels: list[Level] = []
        self._base, self._options, self._plan, self._timeout = base, options, plan, timeout
        self._started = datetime.now(timezone.utc).isoformat(timespec="seconds")

    async def run(self) -> None:
        headers = {"User-Agent": "darkroom-bench"}
        if key := os.environ.get("DARKROOM_API_KEY"):
            calls.require_ascii("api_key", key)
            headers["Authorization"] = f"Bearer {key}"
        async with load.connection(self._base, timeout=self._timeout, headers=headers) as http:
            self.api = self.api or await detect(http)
            if self._options.stream and not self.api.can_stream:
                raise click.UsageError(f"--stream: the {self.api.name} API, which {self._base} speaks, has no events.")
            await load.run(http, self.api, self._options, self._plan, self.levels, _progress)
        if sys.stderr.isatty():
            click.echo(err=True)

    def result(self, *, stopped: bool) -> report.Run:
        assert self.api is not None
        return report.Run(
            url=self._base,
            api=self.api.name,
            started=self._started,
            options=self._options,
            plan=self._plan,
            levels=[level for level in self.levels if level.samples],
            stopped=stopped,
        )


def _options(given: dict[str, Any]) -> Options:
    names = ("model", "size", "steps", "images", "stream", "preview_every")
    return Options(**{name: given[name] for name in names}, fields=given["fields"])


def _plan(given: dict[str, Any]) -> Plan:
    prompts = PROMPTS
    if given["prompts"] is not None:
        lines = given["prompts"].read_text("utf-8", "replace").splitlines()
        prompts = tuple(line.strip() for line in lines if line.strip())
        if not prompts:
            raise click.BadParameter(f"{given['prompts']} has no prompts; write one a line.", param_hint="'--prompts'")
    return Plan(
        levels=given["concurrency"],
        requests=given["requests"],
        seconds=given["seconds"],
        warm_up=given["warmup"],
        prompts=prompts,
        seed=given["seed"],
    )


def _progress(level: Level) -> None:
    """On a terminal: one line that is written over."""
    if sys.stderr.isatty():
        click.echo(f"\r{level.concurrency} client(s): {len(level.samples)} requests ", nl=False, err=True)


def _show(run: report.Run, json_file: str | None, plot_file: Path | None) -> None:
    text = json.dumps(report.as_json(run), indent=1, ensure_ascii=False)
    if json_file == "-":
        click.echo(text)
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(report.table(run))
        for note in report.notes(run):
            console.print(note, markup=False, highlight=False, soft_wrap=True)
    try:
        if json_file not in (None, "-"):
            Path(str(json_file)).write_text(text + "\n", "utf-8")
        if plot_file is not None:
            plot.draw(run, plot_file)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None
