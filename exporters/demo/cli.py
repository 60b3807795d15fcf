"""`python -m exporters.demo`: the demo world and the training of its checkpoints.

Commands import what they need when they run: only training, exporting and measuring need torch and diffusers.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporters.files import ROOT

if TYPE_CHECKING:
    from exporters.demo.trainer import Budget

_STATE = ROOT / ".darkroom" / "demo"
_CHECKPOINTS = ROOT / "checkpoints"
_FAMILIES = {
    "sd15": {"vae": 4500, "unet": 6000, "controlnet": 2500},
    "hidream": {"hidream-vae": 2000, "hidream": 5000},
}
"""Family -> its stages in the order of training, and steps of each where nothing else is asked for."""

_folder = click.Path(file_okay=False, path_type=Path)
_state_option = click.option(
    "--state", type=_folder, default=_STATE, show_default=".darkroom/demo", help="Where the states of training lie."
)
_output_option = click.option(
    "--checkpoints", type=_folder, default=_CHECKPOINTS, show_default="checkpoints", help="Where the checkpoints lie."
)
_family_option = click.option(
    "--family", type=click.Choice(list(_FAMILIES)), default="sd15", show_default=True, help="Whose checkpoints."
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
    epilog="""\b
From nothing to checkpoints:
  python -m exporters.demo show "a cat above a pizza on a blue background" cat.png
  python -m exporters.demo train                        hours on a CPU, minutes on a GPU; Ctrl-C and again goes on
  python -m exporters.demo export                       checkpoints/demo-sd15 and demo-sd15-canny
  python -m exporters.demo measure                      how many of 200 prompts the pictures hold
  python -m exporters.demo measure --canny              how well pictures follow edges
  python -m exporters.demo train --family hidream       the same for demo-hidream, and so on
\b
Training, exporting and measuring need more than the service does:
  pip install -e '.[demo]'""",
)
def main() -> None:
    """A small world of emoji scenes with captions, a judge that reads pictures of it, and tiny models trained on it.

    The models have the real classes of Stable Diffusion 1.5 and of HiDream-I1 at small widths, so that the service
    runs, and can be judged, with no download.
    """


@main.command(
    epilog="""\b
Example:
  apt-get install fonts-noto-color-emoji
  python -m exporters.demo glyphs --font /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"""
)
@click.option(
    "--font",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="NotoColorEmoji.ttf, the version with bitmaps (CBDT).",
)
def glyphs(font: Path) -> None:
    """Draw exporters/demo/glyphs.png anew. It is committed: only a change of the glyphs needs this."""
    from exporters.demo.glyphs import SHEET, write_sheet

    click.echo(f"{SHEET.name}: {write_sheet(font):,} bytes")


@main.command(
    epilog="""\b
Examples:
  python -m exporters.demo show "a drawing of a small owl on a pink background" owl.png
  python -m exporters.demo show "a cat on the left and a car on the right on a red background" pair.png --seed 3"""
)
@click.argument("sentence")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_seed_option
def show(sentence: str, file: Path, seed: int) -> None:
    """Render the scene that SENTENCE asks for into FILE: what the models should draw."""
    import random

    from PIL import Image

    from exporters.demo.render import render
    from exporters.demo.world import parse

    try:
        scene = parse(sentence)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'SENTENCE'") from None
    Image.fromarray(render(scene, random.Random(seed))).save(file)


@main.command(
    "judge",
    epilog="""\b
Example:
  python -m exporters.demo judge pair.png""",
)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def judge_command(files: tuple[Path, ...]) -> None:
    """Say what is on pictures of 128 x 128 pixels, and how much of each that explains."""
    import numpy as np
    from PIL import Image

    from exporters.demo.judge import judge
    from exporters.demo.world import caption

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
    stages = _FAMILIES[family]
    wanted = set(names.split(",")) if names else set(stages)
    if not wanted <= set(stages):
        known = ", ".join(stages)
        raise click.BadParameter(
            f"must be of {known} for {family}, with commas between them; got {names!r}.", param_hint="'--stages'"
        )
    return {stage: steps for stage, steps in stages.items() if stage in wanted}


def _budget_options(command: Any) -> Any:
    """--STAGE-steps and --STAGE-minutes for every stage."""
    stages = [(stage, steps) for family in _FAMILIES.values() for stage, steps in family.items()]
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
    from exporters.demo.trainer import Budget

    option = stage.replace("-", "_")
    minutes, steps = given[f"{option}_minutes"], given[f"{option}_steps"]
    return Budget(minutes=minutes, steps=usual if minutes is None and steps is None else steps)


@main.command(
    epilog="""\b
Examples:
  python -m exporters.demo train
  python -m exporters.demo train --stages vae,unet --vae-minutes 35 --unet-minutes 240
  python -m exporters.demo train --stages controlnet --device cuda
  python -m exporters.demo train --family hidream --compile --hidream-vae-minutes 15 --hidream-minutes 90
  nohup nice -n 19 python -m exporters.demo train > train.log 2>&1 &
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
    """Train the stages of a family, one after another.

    For sd15 the VAE, the UNet with its text encoder, and the Canny ControlNet; for hidream a VAE of its own, and the
    transformer with its four text encoders.
    """
    from exporters.demo.train import choose_device, train_stages
    from exporters.demo.trainer import Run

    budgets = {stage: _budget(given, stage, steps) for stage, steps in _stages_of(family, stages).items()}
    run = Run(
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
    epilog="""\b
Examples:
  python -m exporters.demo export
  python -m exporters.demo export --family hidream
  python -m exporters.demo export --state /tmp/demo --checkpoints /tmp/checkpoints"""
)
@_family_option
@_state_option
@_output_option
def export(family: str, state: Path, checkpoints: Path) -> None:
    """Write the averaged weights in fp16, with their model cards: demo-sd15 and demo-sd15-canny, or demo-hidream."""
    import torch

    from exporters.demo.export import export as write
    from exporters.demo.trainer import Run

    try:
        write(Run(folder=state, seed=0, device=torch.device("cpu")), checkpoints, _report, family)
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from None


@main.command(
    epilog="""\b
Example:
  python -m exporters.demo restore && python -m exporters.demo train --stages unet --unet-minutes 60"""
)
@_family_option
@_state_option
@_output_option
def restore(family: str, state: Path, checkpoints: Path) -> None:
    """Make states of training from the checkpoints, to go on with it where the states were not kept.

    Learning rates and budgets begin anew: --unet-minutes 60 behind it means an hour more.
    """
    import torch

    from exporters.demo.restore import restore as write
    from exporters.demo.trainer import Run

    try:
        write(Run(folder=state, seed=0, device=torch.device("cpu")), checkpoints, _report, family)
    except OSError as error:
        raise click.ClickException(str(error)) from None


@main.command(
    epilog="""\b
Examples:
  python -m exporters.demo measure
  python -m exporters.demo measure --guidance 4
  python -m exporters.demo measure --prompts 20 --steps 12         a quick look
  python -m exporters.demo measure --canny --prompts 60
  python -m exporters.demo measure --family hidream"""
)
@_family_option
@click.option("--canny", is_flag=True, help="Measure sd15's ControlNet instead of adherence.")
@click.option("--prompts", type=click.IntRange(4, 400), default=200, show_default=True, help="Half with two objects.")
@click.option("--steps", type=click.IntRange(1, 1000), default=25, show_default=True)
@click.option("--guidance", type=click.FloatRange(1, 30), help="Default: the scale that suits the checkpoint.")
@_seed_option
@_device_option
@_output_option
def measure(
    family: str,
    canny: bool,
    prompts: int,
    steps: int,
    guidance: float | None,
    seed: int,
    device: str,
    checkpoints: Path,
) -> None:
    """Make pictures for prompts that training never saw, and let the judge read them.

    Writes a JSON file and a sheet of pictures into the checkpoint's folder, and the numbers into its model card.
    """
    from exporters.demo.measure import Settings, measure_adherence, measure_canny
    from exporters.demo.train import choose_device

    if canny and family != "sd15":
        raise click.BadParameter(f"there is no ControlNet of the family {family}.", param_hint="'--canny'")
    settings = Settings.of(
        family,
        checkpoints=checkpoints,
        prompts=prompts,
        steps=steps,
        guidance=guidance,
        seed=seed,
        device=choose_device(device),
    )
    if canny:
        result = measure_canny(settings, _report)
        click.echo(f"F1 of edges: {result['f1']:.3f}; {result['holds']} of {prompts} hold their prompt")
        return
    for name, group in measure_adherence(settings, _report)["groups"].items():
        click.echo(f"{name.replace('_', ' ')}: {group['holds']} of {group['prompts']}")
