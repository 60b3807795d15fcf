"""Where a network runs that may be divided over devices of its own: what its config.pbtxt asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from darkroom.serving.networks import ModelSpec
from exporters.config import Placement, config_path, placement_of, write_configs
from exporters.errors import ExportError


def divided_placement(usual: Placement, device_type: str | None, devices: tuple[int, ...]) -> Placement:
    """Where such a network runs.

    If devices are given, it is one instance whatever their number: it divides itself over them (decision 12).

    :param usual: of the other networks, and of this one when neither is given.
    :param device_type: None = where the other networks run.
    :param devices: their numbers; empty = those of the other networks.
    """
    if device_type is None and not devices:
        return replace(usual, unknown_device=False)  # as it was once asked for, and is not any more
    if (device_type or ("cuda" if usual.gpus else "cpu")) == "cuda":
        gpus = devices[:1] or usual.gpus or (0,)
        return replace(usual, gpus=gpus, instances=1 if devices else usual.instances, unknown_device=False)
    return replace(usual, gpus=(), instances=1, unknown_device=device_type == "npu")


def _same(found: Placement) -> Placement:
    return found


def correct(repository: Path, spec: ModelSpec, placement: Callable[[Placement], Placement] = _same) -> None:
    """Correct the config of a network in any repository: where the settings name its devices, as one that asks for an
    instance per GPU cannot be served on them; and where an older version has written it without some inputs.

    :param placement: the wanted one, given the present one.
    :raises ExportError: the config cannot be read.
    """
    path = config_path(repository, spec)
    if path.is_file():
        text = path.read_text()
        try:
            found = placement_of(text, spec)
        except ValueError as error:
            raise ExportError(f"{error}.") from None
        wanted = placement(found)
        if wanted != found or any(f'name: "{tensor.name}"' not in text for tensor in spec.inputs):
            write_configs(repository, [spec], wanted)
