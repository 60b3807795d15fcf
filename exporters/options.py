"""Options that several commands have; each command gives its own help text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from darkroom.serving.networks import is_label
from exporters.checkpoints.single_file.configuration import PREDICTIONS
from exporters.files import CACHE, ROOT

Command = TypeVar("Command", bound=Callable[..., Any])

precision_option = click.option(
    "--precision", type=click.Choice(["fp32", "fp16"]), help="Default: as installed, else fp32."
)


def _label(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    if value is None:
        return ""
    if not is_label(value):
        raise click.BadParameter(
            f"must be 1 to 40 of a to z, 0 to 9, _ and -, beginning with a letter or digit; got {value!r}."
        )
    return value


label_option = click.option(
    "--as",
    "label",
    metavar="LABEL",
    callback=_label,
    help="Export beside the checkpoint that has no label, under names such as MODEL.LABEL.",
)
force_option = click.option("--force", is_flag=True, help="Export even what is up to date.")


config_option = click.option(
    "--config",
    help="For a single .safetensors file: a folder in the diffusers layout or a hub id with its configuration and its "
    "tokenizers. Default: as in the last export, else the folder of the file, else the usual configuration.",
)
prediction_option = click.option(
    "--prediction-type",
    "prediction",
    type=click.Choice(PREDICTIONS),
    help="For a single .safetensors file: what its UNet predicts. Default: as in the last export, else as the file "
    "or its configuration says.",
)


def output_option(help: str) -> Callable[[Command], Command]:
    """`--output`, the model repository."""
    return _folder("--output", ROOT / "model_repository", "model_repository", help)


def cache_option(help: str) -> Callable[[Command], Command]:
    """`--cache`, the folder of files that are kept between runs."""
    return _folder("--cache", CACHE, "cache in STATE_DIR", help)


def _folder(name: str, default: Path, shown: str, help: str) -> Callable[[Command], Command]:
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option(name, type=kind, default=default, show_default=shown, help=help)
