"""The start options of the HiDream service's contract, and the settings that they stand for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from darkroom.errors import InvalidInput
from darkroom.parallel.devices import KINDS
from darkroom.pipelines.hidream.distributed.layouts import layout_for, parse_devices

Command = TypeVar("Command", bound=Callable[..., Any])


def _devices(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """ "0,1" -> (0, 1)."""
    try:
        return None if value is None else parse_devices(value)
    except InvalidInput as error:
        raise click.BadParameter(f"{error.message}.") from None


def _count(ctx: click.Context, param: click.Parameter, value: int | None) -> int | None:
    try:
        if value is not None:
            layout_for(value)
    except InvalidInput as error:
        raise click.BadParameter(f"{error.message}.") from None
    return value


EPILOG = """HiDream: on several devices, should they fail, it goes on with one of them; see the log, and GET /status.

\b
Examples:
  darkroom serve -m /data/HiDream-I1-Full -e /data/Llama-3.1-8B-Instruct -d 0,1,2,3
  darkroom serve -m HiDream-ai/HiDream-I1-Dev -e meta-llama/Llama-3.1-8B-Instruct -t npu -c 8"""
"""For the end of the command's help."""

_OPTIONS = (
    click.option(
        "-m",
        "--model-path",
        metavar="FOLDER|ID",
        help="HiDream-I1 checkpoint: a folder in the diffusers layout, or a hub id as HiDream-ai/HiDream-I1-Full. "
        "It is exported before the start, once [default: HIDREAM_CHECKPOINT, the demo].",
    ),
    click.option(
        "-e",
        "--extra-model-path",
        metavar="FOLDER|ID",
        help="Its Llama-3.1-8B-Instruct, which checkpoints come without [default: HIDREAM_LLAMA, the checkpoint's "
        "text_encoder_4].",
    ),
    click.option(
        "-p",
        "--project-path",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Where relative -m and -e are looked for first. HiDream's own code is not needed.",
    ),
    click.option(
        "-d",
        "--devices",
        metavar="0,1,...",
        callback=_devices,
        help="Devices that HiDream's transformer is divided over: 1, 2 or 4 (tensor parallel), or 8 (4 x 2: experts "
        "as well) [default: HIDREAM_DEVICES, one; the whole of it on each GPU].",
    ),
    click.option(
        "-c",
        "--device-count",
        type=int,
        metavar="1|2|4|8",
        callback=_count,
        help="How many devices, from 0 on, where -d does not name them.",
    ),
    click.option(
        "-t",
        "--device-type",
        type=click.Choice(list(KINDS)),
        help="What -d counts; with cpu, processes [default: HIDREAM_DEVICE_TYPE; cuda where there is a GPU, else cpu].",
    ),
)


def options(command: Command) -> Command:
    """-m, -e, -p, -d, -c and -t."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def settings(given: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables that the options stand for; empty when none of them was given.

    :param given: as click gives them, by name.
    :raises click.BadParameter, click.UsageError: a checkpoint that cannot be, or options that contradict each other.
    """
    folders = [folder.resolve() for folder in (given["project_path"], Path.cwd()) if folder is not None]
    found = {
        "HIDREAM_CHECKPOINT": _checkpoint(given["model_path"], folders, "-m"),
        "HIDREAM_LLAMA": _checkpoint(given["extra_model_path"], folders, "-e"),
        "HIDREAM_DEVICES": _numbers(given["devices"], given["device_count"]),
        "HIDREAM_DEVICE_TYPE": given["device_type"],
    }
    return {name: value for name, value in found.items() if value is not None}


def _checkpoint(text: str | None, folders: list[Path], option: str) -> str | None:
    """A folder's absolute path, so that it does not matter where the service runs; or a hub id as it is."""
    if text is None:
        return None
    for folder in folders:
        path = folder / Path(text).expanduser()
        if path.is_dir():
            return os.path.abspath(path)  # noqa: PTH100  # not resolved: the name of a link may say what it is
    from exporters.checkpoints.hub import parse  # a client of the hub, which a folder does not need
    from exporters.errors import ExportError

    try:
        parse(text)
    except ExportError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
    return text


def _numbers(devices: tuple[int, ...] | None, count: int | None) -> str | None:
    if devices is None and count is None:
        return None
    if devices is not None and count not in (None, len(devices)):
        raise click.UsageError(f"-c {count} contradicts -d, which names {len(devices)} devices; leave one of them out.")
    return ",".join(map(str, devices or range(count or 0)))
