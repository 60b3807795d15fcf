"""`darkroom lora create`, `add`, `train`, `watch`, `pause` and `resume`: training sessions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import click

from .cli import describe, url_option
from .cli_options import field_help, in_order
from .client import Client
from .errors import DarkroomError
from .fields import TrainOptions
from .models import Progress
from .models_loras import TrainingInfo
from .plan import READABLE
from .report import OnProgress, Outcome, Reporter, State, conclude, reporter, shown
from .runner import would_repeat

_ANSWER_SECONDS = 60.0  # for questions that take the service no time, but may come while it is busy
_PERCENT_BETWEEN_LINES = 10
_NAMES = (
    "steps",
    "epochs",
    "batch_size",
    "rank",
    "alpha",
    "learning_rate",
    "resolution",
    "seed",
    "prior_images",
    "sample_images",
)
_FRACTIONS = {"alpha", "learning_rate"}

_session_argument = click.argument("session", metavar="SESSION")
_train_options = in_order(
    *(
        click.option(
            f"--{name.replace('_', '-')}",
            type=float if name in _FRACTIONS else int,
            metavar="X" if name in _FRACTIONS else "N",
            help=field_help(name, "train"),
        )
        for name in _NAMES
    )
)


@click.command()
@url_option
def create(url: str) -> None:
    """Make a training session, and print its id."""
    with Client(url, timeout=_ANSWER_SECONDS) as client:
        click.echo(client.create_session())


@click.command()
@_session_argument
@click.argument(
    "images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="IMAGE|FOLDER..."
)
@click.option("--prompt", metavar="TEXT", help="What all of them show [default: of each, the .txt of its name].")
@url_option
def add(url: str, session: str, images: tuple[Path, ...], prompt: str | None) -> None:
    """Add images to a session, each with a prompt.

    \b
    Examples:
      darkroom lora add 1 cat.jpg --prompt "a cat on a sofa"
      darkroom lora add 1 photos/                 with photos/one.jpg and photos/one.txt, and so on

    Folders are searched with their sub-folders. Nothing is sent if an image has no prompt. An image that is added
    twice counts twice. The exit code is 0 if all were added, 1 if any failed, 2 for a wrong command.
    """
    examples = [(path, prompt if prompt is not None else _caption(path)) for path in _found(images)]
    for path, text in examples:
        if not text.strip():
            raise click.UsageError(f"The prompt of {shown(path)!r} is empty.")
    outcomes: list[Outcome] = []
    stopped = 0
    try:
        with Client(url) as client, reporter(len(examples), "images") as show:
            _send(client, session, examples, show, outcomes)
    except KeyboardInterrupt:
        stopped = 130
    resume = "The images that are done are in the session; give the others again."
    sys.exit(conclude(outcomes, len(examples), stopped=stopped, resume=resume))


def _found(words: Sequence[Path]) -> list[Path]:
    """Images, and those below folders; each once."""
    found: list[Path] = []
    for word in words:
        if not word.is_dir():
            found.append(word)
            continue
        inside = sorted(path for path in word.rglob("*") if path.suffix.lower() in READABLE and path.is_file())
        if not inside:
            raise click.UsageError(f"There are no images below {shown(word)!r}.")
        found += inside
    unique: dict[Path, Path] = {}
    for path in found:
        unique.setdefault(path.resolve(), path)
    return list(unique.values())


def _caption(image: Path) -> str:
    """The text beside an image.

    :raises click.UsageError: there is none, or it is no text.
    """
    path = image.with_suffix(".txt")
    try:
        return path.read_text("utf-8-sig").strip()
    except FileNotFoundError:
        problem = f"{shown(image)!r} has no prompt: give --prompt, or write it into {shown(path)!r}."
    except UnicodeDecodeError as error:
        problem = f"{shown(path)!r} is no UTF-8 text ({error.reason})."
    except OSError as error:
        problem = f"{shown(path)!r}: {describe(error)}."
    raise click.UsageError(problem)


def _send(
    client: Client, session: str, examples: Sequence[tuple[Path, str]], show: Reporter, outcomes: list[Outcome]
) -> None:
    """Send images one after the other. After a failure that all others would share, the rest is not sent."""
    for path, text in examples:
        state: State = "done"
        detail, hopeful = shown(text.partition("\n")[0][:60]), True
        try:
            client.add_session_image(session, path, text)
        except (DarkroomError, OSError) as error:
            state, detail, hopeful = "failed", describe(error), not would_repeat(error, {"session_id"})
        outcome = Outcome(source=shown(path), output=f"session {shown(session)}", state=state, detail=detail)
        outcomes.append(outcome)
        show.report(outcome)
        if not hopeful:
            return


@click.command()
@_session_argument
@_train_options
@click.option(
    "--prior-prompt", "prior_prompts", multiple=True, metavar="TEXT", help="Of the prior images, in turn; repeatable."
)
@click.option(
    "--sample-prompt", "sample_prompts", multiple=True, metavar="TEXT", help="Of the sample images; repeatable."
)
@click.option("--watch", "follow", is_flag=True, help="Wait until it is done, and show how far it is.")
@url_option
def train(
    url: str,
    session: str,
    follow: bool,
    prior_prompts: tuple[str, ...],
    sample_prompts: tuple[str, ...],
    **options: Any,
) -> None:
    """Train a LoRA on the images of a session.

    \b
    Examples:
      darkroom lora train 1
      darkroom lora train 1 --steps 1500 --rank 16 --watch
      darkroom lora train 1 --prior-images 40 --prior-prompt "a dog" --prior-prompt "a house"

    It prints the id of the task that does it. The training goes on when you close the terminal, and after a crash of
    the service. `darkroom lora watch SESSION` looks at it again, `darkroom lora pause SESSION` pauses it, `darkroom
    cancel TASK` stops it. The exit code is 0 when it was accepted, with --watch when the LoRA is there; 1 when it
    failed or was refused; 2 for a wrong command; 130 after Ctrl-C.
    """
    with Client(url, timeout=_ANSWER_SECONDS) as client:
        prompts = {"prior_prompts": list(prior_prompts) or None, "sample_prompts": list(sample_prompts) or None}
        task = client.train_lora(session, **cast(TrainOptions, {**options, **prompts}))
        if follow:
            click.echo(f"task {shown(task)}", err=True)
            sys.exit(_follow(client, session))
    click.echo(shown(task))


@click.command()
@_session_argument
@url_option
def watch(url: str, session: str) -> None:
    """Show how far the training of a session is.

    It ends with the training, with exit code 0 if it completed and 1 if it failed. Ctrl-C stops the watching and not
    the training.
    """
    with Client(url, timeout=_ANSWER_SECONDS) as client:
        sys.exit(_follow(client, session))


@click.command()
@_session_argument
@url_option
def pause(url: str, session: str) -> None:
    """Pause the training of a session.

    It keeps what it has done, and lets other trainings run, until `darkroom lora resume`.
    """
    with Client(url, timeout=_ANSWER_SECONDS) as client:
        found = client.pause(_training_task(client, session))
    click.echo(f"session {shown(session)}: {shown(found.state)}")


@click.command()
@_session_argument
@url_option
def resume(url: str, session: str) -> None:
    """Let the paused training of a session go on from its last step."""
    with Client(url, timeout=_ANSWER_SECONDS) as client:
        found = client.resume(_training_task(client, session))
    click.echo(f"session {shown(session)}: {shown(found.state)}")


def _training_task(client: Client, session: str) -> str:
    """The task of the newest training of a session."""
    task = client.training(session).task_id
    if task is None:
        raise click.ClickException(f"There was no training of the session {shown(session)}.")
    return task


def _follow(client: Client, session: str) -> int:
    """Watch a training and report its end; the exit code."""
    title = f"session {shown(session)}"
    try:
        with reporter(1, "trainings") as show, show.bar(title) as bar:
            tell = _on_bar(bar, title) if show.wants_progress else _in_lines()
            training = client.watch_training(session, on_progress=tell)
    except KeyboardInterrupt:
        click.echo(f"The training goes on; `darkroom lora watch {shown(session)}` looks at it again.", err=True)
        raise
    if training.state == "completed":
        click.echo(shown(training.lora))
        return 0
    if training.state == "none":
        click.echo(f"There was no training of the session {shown(session)}.", err=True)
    else:
        click.echo(f"The training failed: {shown(training.message, 'no reason was given')}", err=True)
    return 1


def _loss(training: TrainingInfo) -> str:
    if training.paused:
        return ", paused"
    return "" if training.loss is None else f", loss {training.loss:.4f}"


def _on_bar(bar: OnProgress, title: str) -> Callable[[TrainingInfo], None]:
    """Report how far a training is on a bar, which pulses until the number of steps is known."""

    def tell(training: TrainingInfo) -> None:
        if training.total_steps:
            bar(Progress(done=training.step, total=training.total_steps), title + _loss(training))

    return tell


def _in_lines() -> Callable[[TrainingInfo], None]:
    """Report how far a training is with a line for every tenth of it."""
    told = -1

    def tell(training: TrainingInfo) -> None:
        nonlocal told
        tenth = training.progress // _PERCENT_BETWEEN_LINES
        if tenth > told and training.total_steps:
            told = tenth
            click.echo(f"step {training.step} of {training.total_steps}{_loss(training)}", err=True)

    return tell
