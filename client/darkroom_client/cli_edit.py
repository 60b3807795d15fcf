"""`darkroom edit` and `darkroom edit-modes`."""

from __future__ import annotations

import json
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .cli import PROBE_TIMEOUT, describe, url_option
from .cli_options import field_help, in_order
from .client import Client
from .files import is_there, write_whole
from .models import EditOptions, GenerateResult
from .report import reporter, shown

_STDOUT = "-"
_RANDOM_SEEDS = 2**32  # as the service draws them
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FORMATS = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
_TEXT = ("old_text", "new_text", "position", "font_type", "color")
_OPTIONS = EditOptions.__annotations__.keys() - {"seed", "num_images", "format", "preview_every"}

_mode_options = in_order(
    click.option("--mode", type=int, metavar="N", help="A mode of `darkroom edit-modes`, which says what is meant."),
    click.option("--control", type=_FILE, help="Of modes 13 to 16: a depth map, edges, keypoints, or a sketch."),
    click.option("--make-control", is_flag=True, help="Of modes 13 to 16: make the control image of the first image."),
    click.option("--old-text", metavar="TEXT", help="Of modes 9, 11 and 12: the text in the image."),
    click.option("--new-text", metavar="TEXT", help="Of modes 9 to 12: the text that is to be there."),
    click.option("--text-position", "position", metavar="TEXT", help="Of modes 9 to 12: where the text is."),
    click.option("--font", "font_type", metavar="NAME", help="Of modes 9 to 12."),
    click.option("--color", metavar="NAME", help="Of modes 9 to 12: the colour of the text."),
    click.option("--at", "positions", multiple=True, metavar="TEXT", help="Where each image's subject is to be."),
    click.option("--style", metavar="TEXT", help="Of any mode: the style of the result."),
    click.option("--keep", "preserve_features", multiple=True, metavar="TEXT", help="Of any mode: what stays."),
)
_image_options = in_order(
    click.option("--mask", type=_FILE, help=field_help("mask", "edit")),
    click.option("-m", "--model", metavar="NAME", help="A name of GET /models [service: its default]."),
    click.option("-n", "--num-images", "count", type=click.IntRange(1), default=1, metavar="N", help="Results."),
    click.option("--seed", type=click.IntRange(0), metavar="N", help="Makes the same image again; drawn if not given."),
    click.option("--steps", type=click.IntRange(1), metavar="N", help=field_help("steps", "edit")),
    click.option(
        "-g", "--true-guidance-scale", type=float, metavar="X", help=field_help("true_guidance_scale", "edit")
    ),
    click.option("--guidance-scale", type=float, metavar="X", help=field_help("guidance_scale", "edit")),
    click.option("--negative-prompt", metavar="TEXT", help="What not to show."),
    click.option("--width", type=click.IntRange(1), metavar="N", help=field_help("width", "edit")),
    click.option("--height", type=click.IntRange(1), metavar="N", help=field_help("height", "edit")),
    click.option("--scheduler", metavar="NAME", help=field_help("scheduler", "edit")),
    click.option(
        "--make-map",
        type=click.Choice(["edges", "sketch", "depth", "keypoints"]),
        help="Without a mode: follow this map of the first image.",
    ),
    click.option("--control-image", type=_FILE, help="Without a mode: follow this map, by the model's ControlNet."),
    *(
        click.option(f"--{option}", name, type=float, metavar="X", help=field_help(name, "edit"))
        for option, name in (
            ("control-scale", "controlnet_conditioning_scale"),
            ("control-start", "control_guidance_start"),
            ("control-end", "control_guidance_end"),
        )
    ),
    click.option("--no-align", "align", flag_value=False, default=None, type=bool, help="Leave a shift as it is."),
)
_output_options = in_order(
    click.option("-o", "--output", metavar="PATH", help="A file, a folder, or - for standard output."),
    click.option("-f", "--format", type=click.Choice(["png", "webp", "jpeg"]), help="By the output's name, else png."),
    click.option("-q", "--quality", type=click.IntRange(1, 100), help="Of webp and jpeg."),
    click.option("--overwrite", is_flag=True, help="Make images again that are there already."),
    click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each image."),
    click.option("--timeout", type=click.FloatRange(1), default=600, show_default=True, help="Seconds without answer."),
    url_option,
)


@click.command()
@click.argument("images", nargs=-1, required=True, type=_FILE, metavar="IMAGE...")
@click.argument("prompt")
@_mode_options
@_image_options
@_output_options
def edit(images: tuple[Path, ...], prompt: str, **given: Any) -> None:
    """Change an image as a text says.

    \b
    Examples:
      darkroom edit photo.png "make the background red" -o out.png
      darkroom edit photo.png "add a hat" -n 4 --seed 1          photo-edited-1.png to photo-edited-4.png
      darkroom edit photo.png "a red hat" --mask head.png        only where the mask is transparent
      darkroom edit anna.png ben.png "they shake hands" --mode 1 --at left --at right
      darkroom edit sign.png "as on paper" --mode 9 --old-text Hello --new-text Hi
      darkroom edit photo.png "follow the depth" --mode 13 --control depth.png
      darkroom edit photo.png "a watercolour" --mode 14 --make-control

    Put the prompt into quotes, behind the images. The first image is changed; the others show what the prompt speaks
    of. `darkroom edit-modes` lists the modes. A result that is there already is skipped. The exit code is 0 when
    every result is done or skipped, 1 when it failed, 2 for a wrong command, 130 after Ctrl-C.
    """
    seed = secrets.randbelow(_RANDOM_SEEDS) if given["seed"] is None else given["seed"]
    plan = _Plan.make(images[0], given["output"], given["format"], seed, given["count"])
    if plan.outputs == (None,) and (sys.stdout.isatty() or given["as_json"]):
        raise click.UsageError("Standard output is for the image alone: send it into a file, as in `> out.png`.")
    if not given["overwrite"] and all(is_there(path) for path in plan.outputs):
        for path in plan.outputs:
            click.echo(f"{shown(path)} is there and was skipped; --overwrite makes it again.", err=True)
        return
    options = cast(EditOptions, {name: given[name] for name in _OPTIONS})
    text = {name: given[name] for name in _TEXT if given[name] is not None}
    additional: dict[str, Any] = {name: list(given[name]) for name in ("positions", "preserve_features") if given[name]}
    additional |= {"style": given["style"]} if given["style"] is not None else {}
    additional |= {"make_control": True} if given["make_control"] else {}
    with (
        Client(given["url"], timeout=given["timeout"]) as client,
        reporter(1, "images") as show,
        show.bar(shown(prompt)) as bar,
    ):
        result = client.edit(
            images,
            prompt,
            mode=given["mode"],
            control=given["control"],
            text=text or None,
            additional=additional or None,
            on_progress=bar if show.wants_progress else None,
            **{**options, "seed": seed, "num_images": given["count"], "format": plan.format},
        )
    _write(result, plan, as_json=given["as_json"])


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Where the results go.

    :param outputs: one for each result; None for standard output.
    """

    outputs: tuple[Path | None, ...]
    format: str

    @classmethod
    def make(cls, image: Path, output: str | None, format: str | None, seed: int, count: int) -> _Plan:
        """Choose names by the first image and the seeds.

        :raises click.UsageError: several results and one file, or a file whose name says another format.
        """
        if output == _STDOUT:
            if count > 1:
                raise click.UsageError("Standard output takes one image; give a folder with -o.")
            return cls(outputs=(None,), format=format or "png")
        given = Path(output) if output is not None else Path()
        named = _FORMATS.get(given.suffix.lower()) if output is not None and not given.is_dir() else None
        if named is not None:
            if count > 1:
                raise click.UsageError(f"{shown(given)} is one file, and there are {count} results; give a folder.")
            if format not in (None, named):
                raise click.UsageError(f"{shown(given)} is a name for {named}, and --format says {format}.")
            if given.exists() and given.samefile(image):
                raise click.UsageError(f"{shown(given)} is the image itself, which is not replaced.")
            return cls(outputs=(given,), format=named)
        made = format or "png"
        seeds = [f"-{seed + k}" for k in range(count)] if count > 1 else [""]
        return cls(outputs=tuple(given / f"{image.stem}-edited{end}.{made}" for end in seeds), format=made)


def _write(result: GenerateResult, plan: _Plan, *, as_json: bool) -> None:
    for image, path in zip(result.images, plan.outputs, strict=True):
        if path is None:
            sys.stdout.buffer.write(image.data)
            sys.stdout.buffer.flush()
            continue
        try:
            write_whole(path, image.data)
        except OSError as error:
            raise click.ClickException(f"{shown(path)}: {describe(error)}") from None
        line = {"file": str(path), "seed": image.seed, "parameters": dict(result.parameters)}
        click.echo(json.dumps(line, ensure_ascii=False) if as_json else shown(path))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@url_option
def edit_modes(url: str, as_json: bool) -> None:
    """List the modes of editing, and what each needs."""
    with Client(url, timeout=PROBE_TIMEOUT) as client:
        modes = client.edit_modes()
    if as_json:
        click.echo(json.dumps([mode.raw for mode in modes], indent=2, ensure_ascii=False))
        return
    table = Table("mode", "name", "images", "needs", "for", box=box.SIMPLE)
    for mode in modes:
        several = f"{mode.min_images} to {mode.max_images}" if mode.max_images > 1 else "1"
        needs = _listed((mode.requires_controlnet, "--control"), (mode.requires_text_params, "a text"))
        table.add_row(str(mode.mode), Text(mode.name), several, needs, Text(mode.description))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _listed(*needs: tuple[bool, str]) -> str:
    return ", ".join(name for needed, name in needs if needed)
