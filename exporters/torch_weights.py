"""Weights that are served as they are: the checkpoint's own safetensors beside config.json."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from exporters.checkpoints.components import Component
from exporters.errors import ExportError
from exporters.export import ModelExport, install, staging
from exporters.manifest import Manifest
from exporters.merged_lora import ROLE, LoraFile, stage_lora
from exporters.merged_lora import Shapes as Shapes
from exporters.tasks import Stage

STAGES = ("check weights", "install")
_MODE = 0o644


def export_weights(
    wanted: ModelExport,
    component: Component,
    check: Callable[[Shapes], None],
    *,
    exporter: str,
    stage: Stage,
    lora: LoraFile | None = None,
    beside: Mapping[str, Component] | None = None,
) -> Manifest:
    """Check the weights, and put them in place with config.json.

    :param check: is given the shapes that the files' headers say; no weights are read.
    :param exporter: the hash of everything that shapes the files.
    :param stage: is called with each of STAGES as it begins.
    :param lora: is added to the weights when they are loaded; among the origins of `wanted` under ROLE.
    :param beside: further networks that are served with this one, by their roles among the origins of `wanted`. Each
        is put into a folder that is called as its role.
    :raises ExportError: they are no safetensors, `check` raises it, or the LoRA is damaged or for another network.
    """
    stage("check weights")
    if not component.safetensors:
        raise ExportError(f"{component.root.name}: the weights of {component.part} have to be safetensors.")
    shapes = read_shapes(component)
    check(shapes)
    sources = {"checkpoint": wanted.checkpoint.source(component.files)}
    stage("install")
    with staging(wanted) as staged:
        placed = {path.name: path for path in _staged(component, staged)}
        for role, one in (beside or {}).items():
            placed |= {f"{role}/{path.name}": path for path in _staged(one, staged / role)}
            sources[role] = wanted.origins[role].source(one.files)
        if lora is not None:
            path = stage_lora(lora, shapes, wanted.checkpoint.title, staged)
            placed[path.name], sources[ROLE] = path, lora.source()
        for left in set(wanted.folder.rglob("*.safetensors")) - {wanted.folder / name for name in placed}:
            left.unlink()  # another checkpoint's: all files of a folder are read
        for config in wanted.folder.glob("*/config.json"):
            if config.parent.name not in (beside or {}):
                shutil.rmtree(config.parent)
        return install(wanted, placed, exporter=exporter, sources=sources)


def require_shapes(component: Component, expected: Shapes, found: Shapes) -> None:
    """:raises ExportError: a tensor is missing, has another shape, or is unknown."""
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise ExportError(
                f"{component.root.name}/{component.part} holds the weights of another network: {key} has the shape "
                f"{found.get(key)}, expected {expected.get(key)}."
            )


def read_shapes(component: Component) -> Shapes:
    """What the headers of the files say.

    :raises ExportError: one of them is damaged.
    """
    return dict(_shapes(component))


def _shapes(component: Component) -> Iterator[tuple[str, tuple[int, ...]]]:
    from safetensors import SafetensorError, safe_open

    for name in component.weights:
        if name.endswith(".safetensors"):
            try:
                with safe_open(component.root / name, "pt") as file:
                    yield from ((key, tuple(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118
            except SafetensorError as error:
                raise ExportError(f"{component.root.name}/{name} cannot be read: {error}.") from None


def _staged(component: Component, folder: Path) -> list[Path]:
    """The files of a network in `folder`."""
    folder.mkdir(exist_ok=True)
    return [_stage(component.root / name, folder) for name in component.files if not name.endswith(".index.json")]


def _stage(source: Path, folder: Path) -> Path:
    """The file under the same name in `folder`: 34 GB are linked where they can be, not copied."""
    real, target = source.resolve(), folder / source.name
    try:
        if real.stat().st_mode & 0o777 != _MODE:  # which the installed file gets, and a link shares
            raise PermissionError
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)
    return target
