"""`python -m training`: the demo world and the training of its checkpoints.

Commands import what they need when they run: only training, exporting and measuring need torch and diffusers.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporters.files import ROOT
from training.family import DemoFamily, families
from training.lora.cli import lora

if TYPE_CHECKING:
    from training.trainer import Budget

_STATE = ROOT / ".darkroom" / "demo"
_CHECKPOINTS = ROOT / "checkpoints"
_USUAL, *_OTHERS = families()
_OTHER = _OTHERS[0] if _OTHERS else _USUAL
"""A family for examples."""
_FOLDERS = (families()[_USUAL].folder, *families()[_USUAL].others)
_FIRST_STAGE = next(iter(families()[_USUAL].stages))

_folder = click.Path(file_okay=False, path_type=Path)
_state_option = click.option(
    "--state", type=_folder, default=_STATE, show_default=".darkroom/demo", help="Where the states of training lie."
)
_output_option = click.option(
    "--checkpoints", type=_folder, default=_CHECKPOINTS, show_default="checkpoints", help="Where the checkpoints lie."
)
_family_option = click.option(
    "--family", type=click.Choice(list(families())), default=_USUAL, show_default=True, help="Whose checkpoints."
)
_seed_option = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="For all randomness.")
_device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="What computes; auto is CUDA where there is one.",
)


def _report(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {text}")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=f"""\b
From nothing to checkpoints:
  python -m training show "a cat above a pizza on a blue background" cat.png
  python -m training train                        hours on a CPU, minutes on a GPU; Ctrl-C and again goes on
  python -m training export                       checkpoints/{" and ".join(_FOLDERS)}
  python -m training measure                      how many of 200 prompts the pictures hold
  python -m training train --family {_OTHER:<13} the same for another family, and so on
\b
Training, exporting and measuring need more than the service does:
  pip install -e '.[demo]'""",
)
def main() -> None:
    """A small world of emoji scenes with captions, a judge that reads images of it, and tiny models trained on it.

    The models have the real classes of the families at small widths, so that the service runs, and can be judged, with
    no download.
    """


main.add_command(lora)


@main.command(
    epilog="""\b
Example:
  apt-get install fonts-noto-color-emoji
  python -m training glyphs --font /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"""
)
@click.option(
    "--font",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="NotoColorEmoji.ttf, the version with bitmaps (CBDT).",
)
def glyphs(font: Path) -> None:
    """Draw training/glyphs.png again. The file is committed, so this is needed only after a change of the glyphs."""
    from training.glyphs import SHEET, write_sheet

    click.echo(f"{SHEET.name}: {write_sheet(font):,} bytes")


@main.command(
    epilog="""\b
Examples:
  python -m training show "a drawing of a small owl on a pink background" owl.png
  python -m training show "a cat on the left and a car on the right on a red background" pair.png --seed 3"""
)
@click.argument("sentence")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_seed_option
def show(sentence: str, file: Path, seed: int) -> None:
    """Render the scene that SENTENCE asks for into FILE: what the models should draw."""
    import random

    from PIL import Image

    from training.render import render
    from training.world import parse

    try:
        scene = parse(sentence)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'SENTENCE'") from None
    Image.fromarray(render(scene, random.Random(seed))).save(file)


@main.command(
    "judge",
    epilog="""\b
Example:
  python -m training judge pair.png""",
)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def judge_command(files: tuple[Path, ...]) -> None:
    """Tell what images of 128 x 128 pixels show, and which share of each image that explains."""
    import numpy as np
    from PIL import Image

    from training.judge import judge
    from training.world import caption

    for file in files:
        with Image.open(file) as image:
            picture = np.asarray(image.convert("RGB"))
        try:
            verdict = judge(picture)
        except ValueError as error:
            raise click.BadParameter(f"{file.name}: {error}", param_hint="'FILES'") from None
        trust = "" if verdict.sure else " (a guess)"
        click.echo(f"{file.name}: {caption(verdict.scene)}; explains {verdict.explained:.0%}{trust}")


def _stages_of(family: str, names: str | None) -> dict[str, int]:
    """The stages of a family, or those of them that `names` has with commas between them; each with its usual steps."""
    stages = families()[family].stages
    wanted = set(names.split(",")) if names else set(stages)
    if not wanted <= set(stages):
        known = ", ".join(stages)
        raise click.BadParameter(
            f"must be of {known} for {family}, with commas between them; got {names!r}.", param_hint="'--stages'"
        )
    return {stage: steps for stage, steps in stages.items() if stage in wanted}


def _budget_options(command: Any) -> Any:
    """--STAGE-steps and --STAGE-minutes for every stage."""
    stages = [(stage, steps) for family in families().values() for stage, steps in family.stages.items()]
    for stage, steps in reversed(stages):
        command = click.option(
            f"--{stage}-minutes",
            type=click.FloatRange(0),
            help="Minutes of training, over all runs of the stage since it began or was restored.",
        )(command)
        command = click.option(
            f"--{stage}-steps", type=click.IntRange(0), help=f"Default, where no minutes are given: {steps}."
        )(command)
    return command


def _budget(given: dict[str, Any], stage: str, usual: int) -> Budget:
    from training.trainer import Budget

    option = stage.replace("-", "_")
    minutes, steps = given[f"{option}_minutes"], given[f"{option}_steps"]
    return Budget(minutes=minutes, steps=usual if minutes is None and steps is None else steps)


@main.command(
    epilog=f"""\b
Examples:
  python -m training train
  python -m training train --stages {_FIRST_STAGE} --{_FIRST_STAGE}-minutes 35
  python -m training train --family {_OTHER} --compile --device cuda
  nohup nice -n 19 python -m training train > train.log 2>&1 &
\b
A state is saved every few minutes and at the end, atomically; the same command goes on from it."""
)
@_family_option
@click.option("--stages", help="What to train of the family, with commas between them. Default: all stages.")
@_budget_options
@_state_option
@_seed_option
@_device_option
@click.option("--threads", type=click.IntRange(1, 256), help="At most; fewer while other programs need the cores.")
@click.option(
    "--samples",
    type=click.IntRange(64),
    default=40_960,
    show_default=True,
    help="Scenes for the stages after the VAE, rendered and encoded once.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    help="Samples of a step, in the stages after the VAE.  [default: what suits the device]",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 10, min_open=True),
    default=1.0,
    show_default=True,
    help="Times the learning rate; less than 1 to finish what was trained before.",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="torch.compile the network: needs a C++ compiler, pays after some minutes.",
)
@click.option(
    "--save-minutes", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Time between saved states."
)
def train(
    family: str,
    stages: str | None,
    state: Path,
    seed: int,
    device: str,
    threads: int | None,
    samples: int,
    batch: int | None,
    rate: float,
    compiled: bool,
    save_minutes: float,
    **given: Any,
) -> None:
    """Train the stages of a family, one after another."""
    from training.train import choose_device, train_stages
    from training.trainer import TrainingRun

    budgets = {stage: _budget(given, stage, steps) for stage, steps in _stages_of(family, stages).items()}
    run = TrainingRun(
        folder=state,
        seed=seed,
        device=choose_device(device),
        samples=samples,
        batch=batch,
        rate=rate,
        compiled=compiled,
        save_minutes=save_minutes,
    )
    try:
        train_stages(run, budgets, threads, _report)
    except KeyboardInterrupt:
        _report("stopped; the state is saved, and the same command goes on")
        sys.exit(130)
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(str(error)) from None


@main.command(
    epilog=f"""\b
Examples:
  python -m training export
  python -m training export --family {_OTHER}
  python -m training export --state /tmp/demo --checkpoints /tmp/checkpoints"""
)
@_family_option
@_state_option
@_output_option
def export(family: str, state: Path, checkpoints: Path) -> None:
    """Write the averaged weights of a family in fp16 as its checkpoints, with their model cards."""
    import torch

    from training.export import export as write
    from training.trainer import TrainingRun

    try:
        write(TrainingRun(folder=state, seed=0, device=torch.device("cpu")), checkpoints, _report, families()[family])
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from None


@main.command(
    epilog=f"""\b
Example:
  python -m training restore && python -m training train --stages {_FIRST_STAGE} --{_FIRST_STAGE}-minutes 60"""
)
@_family_option
@_state_option
@_output_option
def restore(family: str, state: Path, checkpoints: Path) -> None:
    """Make states of training from the checkpoints, to go on with it where the states were not kept.

    Learning rates and budgets start again: 60 minutes behind it mean an hour more.
    """
    import torch

    from training.restore import restore as write
    from training.trainer import TrainingRun

    try:
        write(TrainingRun(folder=state, seed=0, device=torch.device("cpu")), checkpoints, _report, families()[family])
    except OSError as error:
        raise click.ClickException(str(error)) from None


def _measure_options(command: Any) -> Any:
    """A flag for every measurement that a family has beside adherence."""
    for family in reversed(families().values()):
        for name, measure in family.measures.items():
            command = click.option(f"--{name}", is_flag=True, help=f"{family.name}: {measure.help}")(command)
    return command


def _asked_measure(family: DemoFamily, flags: dict[str, bool]) -> str | None:
    """The measurement whose flag was given; None = adherence."""
    asked = [name for name, given in flags.items() if given]
    for name in asked:
        if name not in family.measures:
            raise click.BadParameter(f"the family {family.name} has no such measurement.", param_hint=f"'--{name}'")
    return asked[0] if asked else None


@main.command(
    epilog=f"""\b
Examples:
  python -m training measure
  python -m training measure --guidance 4
  python -m training measure --prompts 20 --steps 12         a quick look
  python -m training measure --family {_OTHER}"""
)
@_family_option
@_measure_options
@click.option(
    "--prompts",
    type=click.IntRange(4, 400),
    default=200,
    show_default=True,
    help="Half with two objects; of edits a quarter of it for each mode.",
)
@click.option("--steps", type=click.IntRange(1, 1000), default=25, show_default=True)
@click.option("--guidance", type=click.FloatRange(1, 30), help="Default: the scale that suits the checkpoint.")
@_seed_option
@_device_option
@_output_option
def measure(
    family: str,
    prompts: int,
    steps: int,
    guidance: float | None,
    seed: int,
    device: str,
    checkpoints: Path,
    **flags: bool,
) -> None:
    """Make images for prompts that training never saw, and let the judge read them.

    Writes a JSON file and a sheet of images into the checkpoint's folder, and the numbers into its model card.
    """
    chosen = families()[family]
    asked = _asked_measure(chosen, flags)

    from training.measure import Measurement, measure_adherence
    from training.train import choose_device

    settings = Measurement(
        checkpoints=checkpoints,
        family=chosen,
        prompts=prompts,
        steps=steps,
        guidance=guidance,
        seed=seed,
        device=choose_device(device),
    )
    if asked is not None:
        click.echo(chosen.measures[asked].line(chosen.measures[asked].run(settings, _report)))
        return
    for name, group in (chosen.adherence or measure_adherence)(settings, _report)["groups"].items():
        click.echo(f"{name.replace('_', ' ')}: {group['holds']} of {group['prompts']}")
