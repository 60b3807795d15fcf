"""`darkroom generate`: the words of the command. What it does is in `generate_run`."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, TextIO, cast

import click

from .cli import url_option
from .cli_options import field_help, in_order
from .client import Client
from .errors import DarkroomError
from .fields import HELP
from .generate_run import GenerateRun, carry_out
from .lora_choice import DigestOf, parse_choice
from .lora_digests import LoraDigests
from .models import GenerateOptions, pillow
from .recorded import made_otherwise
from .shots import GridMode, Shot, make_plan

RANDOM_SEEDS = 2**32  # as the service draws them: numbers that every tool can hold


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """WIDTHxHEIGHT, or one number for a square."""
    if value is None:
        return None
    sides = re.fullmatch(r"(\d+)(?:[xX×](\d+))?", value, re.ASCII)
    if sides is None:
        raise click.BadParameter(f"{value!r} is no size; write 512x768, or 512 for a square.")
    width = int(sides[1])
    return width, int(sides[2] or width)


def _loras(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> list[dict[str, Any]] | None:
    """NAME:WEIGHT, any number of times."""
    try:
        return [parse_choice(word) for word in words] or None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_picture_options = in_order(
    click.option("-m", "--model", metavar="NAME", help="A name of GET /models [service: its default]."),
    click.option(
        "-n",
        "--num-images",
        "count",
        type=click.IntRange(1),
        metavar="N",
        default=1,
        show_default=True,
        help="Images of each prompt; they get the seeds SEED, SEED+1 and so on.",
    ),
    click.option("--seed", type=click.IntRange(0), metavar="N", help="Makes the same image again; drawn if not given."),
    click.option("--steps", type=click.IntRange(1), metavar="N", help=field_help("steps")),
    click.option(
        "-g",
        "--guidance-scale",
        type=float,
        metavar="X",
        help=field_help("guidance_scale"),
    ),
    click.option("--negative-prompt", metavar="TEXT", help=field_help("negative_prompt")),
    click.option(
        "--size",
        metavar="WxH",
        callback=_size,
        help="Such as 512x768, or 512; multiples of 8 [service: the model's own].",
    ),
    click.option("--width", type=click.IntRange(1), metavar="N", help="Instead of --size."),
    click.option("--height", type=click.IntRange(1), metavar="N", help="Instead of --size."),
    click.option("--max-sequence-length", type=int, metavar="N", help=field_help("max_sequence_length")),
    click.option(
        "--scheduler", metavar="NAME", help=f"Such as euler_a or 'DPM++ 2M Karras'. {HELP['generate']['scheduler']}"
    ),
    click.option(
        "--lora",
        "loras",
        multiple=True,
        metavar="NAME:WEIGHT",
        callback=_loras,
        help="A LoRA of `darkroom lora list`, any number of times; NAME alone has weight 1. session:ID:WEIGHT is the "
        "newest of a session, sha256:DIGEST:WEIGHT a file by its digest.",
    ),
)

_refiner_options = in_order(
    *(
        click.option(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=field_help(name))
        for kind, metavar, names in (
            (float, "X", ("refiner_start", "aesthetic_score")),
            (int, "N", ("original_width", "original_height", "crop_top", "crop_left")),
            (int, "N", ("target_width", "target_height")),
        )
        for name in names
    )
)

_init_options = in_order(
    click.option(
        "--init",
        "init_image",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help=field_help("init_image"),
    ),
    click.option("--mask", type=click.Path(exists=True, dir_okay=False, path_type=Path), help=field_help("mask")),
    click.option("--strength", type=float, metavar="X", help=field_help("strength")),
)

_control_options = in_order(
    click.option(
        "--control",
        "control_image",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help=field_help("control_image"),
    ),
    click.option("--control-type", metavar="KIND", help=field_help("control_type")),
    click.option(
        "--no-control-preprocess",
        "control_preprocess",
        flag_value=False,
        default=None,
        type=bool,
        help="The reference image is a map already, of edges for example.",
    ),
    click.option("--low-threshold", type=int, metavar="N", help=field_help("low_threshold")),
    click.option("--high-threshold", type=int, metavar="N", help=field_help("high_threshold")),
    click.option(
        "--control-scale",
        "controlnet_conditioning_scale",
        type=float,
        metavar="X",
        help=field_help("controlnet_conditioning_scale"),
    ),
    click.option(
        "--control-start",
        "control_guidance_start",
        type=float,
        metavar="X",
        help=field_help("control_guidance_start"),
    ),
    click.option(
        "--control-end",
        "control_guidance_end",
        type=float,
        metavar="X",
        help=field_help("control_guidance_end"),
    ),
    click.option(
        "--control-map",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write what was taken from it, the edges, into this file.",
    ),
)

_output_options = in_order(
    click.option(
        "-o",
        "--output",
        metavar="PATH",
        help="A folder; for one image also a file, or - for standard output [default: this folder].",
    ),
    click.option("-f", "--format", type=click.Choice(["png", "webp", "jpeg"]), help="By the output's name, else png."),
    click.option("-q", "--quality", type=click.IntRange(1, 100), help="Of webp and jpeg."),
    click.option("--grid", "grid", flag_value="also", default=None, help="Also put all images into one."),
    click.option("--grid-only", "grid", flag_value="only", default=None, help="Write that one alone."),
    click.option("--preview", is_flag=True, help="While a request runs, keep NAME.preview.png up to date."),
    click.option(
        "--preview-every", type=click.IntRange(1), metavar="N", help="Steps between previews; means --preview."
    ),
    click.option("--overwrite", is_flag=True, help="Make images again that are there already."),
    click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each image."),
)

_run_options = in_order(
    click.option(
        "--prompts-file",
        type=click.File(encoding="utf-8-sig"),
        help="Prompts, one a line; - for standard input. Empty lines and those with # first are left out.",
    ),
    click.option("-j", "--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Requests at a time."),
    click.option("--timeout", type=click.FloatRange(1), default=600, show_default=True, help="Seconds without answer."),
    url_option,
)


@click.command()
@click.argument("prompts", nargs=-1, metavar="PROMPT...")
@_picture_options
@_refiner_options
@_init_options
@_control_options
@_output_options
@_run_options
def generate(**given: Any) -> None:
    """Make images of a text.

    \b
    Examples:
      darkroom generate "a cat on a blue background"
      darkroom generate "a cat" -n 4 --steps 30 -o out/        four seeds, into a folder
      darkroom generate "a cat" --seed 42 -o cat.png           the same image each time
      darkroom generate "a cat" --size 512x768 -g 9 --negative-prompt "blurry, text"
      darkroom generate "a (red:1.4) house" --scheduler "DPM++ 2M Karras"
      darkroom generate "a cat" --lora ink:0.8 --lora session:1       LoRAs; see darkroom lora --help
      darkroom generate "a pizza" --control drawing.jpg --control-scale 0.8
      darkroom generate "a watercolour" --init photo.jpg --strength 0.6
      darkroom generate "a hat" --init cat.png --mask head.png
      darkroom generate "a cat" "a dog" -n 3 --grid -o out/    rows are prompts, columns are seeds
      darkroom generate --prompts-file prompts.txt --seed 1 --jobs 4 -o out/
      darkroom generate "a cat" -o - | darkroom upscale - big.png
      darkroom generate "a cat" -n 100 --json -o out/ | jq -r .file

    Put each prompt into quotes. Images are called after prompt and seed, a-cat-42.png. One that is there
    already is skipped, so a run with a --seed goes on where it was stopped when the same command is given again;
    if a PNG of that name was made with another prompt or other settings, the new one is called a-cat-42-2.png.
    More images than the service takes at once go in several requests. The exit code is 0 when every image is
    done or skipped, 1 when any failed, 2 for a wrong command, 130 after Ctrl-C.
    """
    prompts = _prompts(given.pop("prompts"), given.pop("prompts_file"))
    options = _options(given)
    seed, overwrite = given["seed"], given["overwrite"]
    plan = make_plan(
        prompts,
        seed=secrets.randbelow(RANDOM_SEEDS) if seed is None else seed,
        count=given["count"],
        output=given["output"],
        format=given["format"],
        grid=_grid(given["grid"]),
        is_another=partial(
            _is_another,
            options,
            overwrite=overwrite,
            random_seed=seed is None,
            most_steps=cache(partial(_most_steps, given["url"], given["timeout"])),
            digest_of=LoraDigests(given["url"], given["timeout"]),
        ),
    )
    options["format"] = plan.format
    run = GenerateRun(
        plan=plan,
        options=options,
        url=given["url"],
        jobs=given["jobs"],
        timeout=given["timeout"],
        overwrite=overwrite,
        random_seed=seed is None,
        control_map=given["control_map"],
        preview=given["preview"] or options["preview_every"] is not None,
        as_json=given["as_json"],
        spelling=_spelling(click.get_current_context().command),
    )
    sys.exit(carry_out(run))


def _prompts(words: tuple[str, ...], file: TextIO | None) -> list[str]:
    """The prompts of the command line, then those of the file; each once, since twice would be the same image."""
    prompts = list(words)
    if file is not None:
        try:
            lines = [line.strip() for line in file]
        except UnicodeDecodeError as error:
            raise click.UsageError(f"{file.name!r} is no UTF-8 text ({error.reason}).") from None
        prompts += [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise click.UsageError('Say what to show, in quotes ("a cat on a blue background"), or use --prompts-file.')
    return list(dict.fromkeys(prompts))


def _options(given: dict[str, Any]) -> GenerateOptions:
    """What goes to the service as it is.

    :raises click.UsageError: options that contradict each other.
    """
    if given["size"] is not None:
        if given["width"] is not None or given["height"] is not None:
            raise click.UsageError("Give the size either with --size or with --width and --height.")
        given["width"], given["height"] = given["size"]
    if given["control_map"] is not None and given["control_image"] is None:
        raise click.UsageError("--control-map needs a --control image.")
    for name in ("mask", "strength"):
        if given[name] is not None and given["init_image"] is None:
            raise click.UsageError(f"--{name} needs an --init image.")
    names = GenerateOptions.__annotations__.keys() - {"seed", "num_images", "format"}
    return cast(GenerateOptions, {name: given[name] for name in names})


def _is_another(
    options: GenerateOptions,
    path: Path,
    shot: Shot,
    *,
    overwrite: bool,
    random_seed: bool,
    most_steps: Callable[[], int | None],
    digest_of: DigestOf,
) -> bool:
    """Whether a file holds another image than the one wanted; if it is to be overwritten that is all the same."""
    seed = None if random_seed else shot.seed
    wanted = {**options, "prompt": shot.prompt, "seed": seed}
    return not overwrite and made_otherwise(path, wanted, most_steps, digest_of)


def _most_steps(url: str, timeout: float) -> int | None:
    """What the service allows, which is also its default where that is less than the usual one; None if it does not
    say."""
    try:
        with Client(url, timeout=timeout, retries=0) as client:
            most = client.status().raw["generate"]["limits"]["max_steps"]
    except (DarkroomError, KeyError, TypeError):
        return None
    return most if isinstance(most, int) else None


def _spelling(command: click.Command) -> dict[str, str]:
    """The options by the fields that they fill, where the service's errors use another name."""
    options = {param.name or "": max(param.opts, key=len) for param in command.params}
    return {name: option for name, option in options.items() if option.strip("-").replace("-", "_") != name}


def _grid(mode: GridMode | None) -> GridMode:
    if mode is None:
        return "none"
    try:
        pillow()
    except ImportError as error:
        raise click.ClickException(f"--grid: {error}") from None
    return mode
