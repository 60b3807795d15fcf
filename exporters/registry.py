"""The families that can be exported, found by their folders: `exporters/<family>/command.py`.

A new family is a new folder; nothing here changes. Its command module has

- `COMMANDS`: its click commands; the first one exports a checkpoint,
- `prepare(settings, repository)`: exports what the settings ask for. The docstring is help for people,

and, where it has checkpoints that `python -m exporters export` shall find,

- `KIND`: what people call them, "Stable Diffusion 1.5",
- `CLASSES`: the classes that their model_index.json may name,
- `recognises(contents)`: whether a checkpoint is of this family, whatever its class; without it `CLASSES` decides,
- `arguments(checkpoint, contents)`: the arguments of the first command for it; without it `--checkpoint CHECKPOINT`,

and, where a network has devices of its own,

- `placement(settings, spec, usual)`: where a model runs, given where the others do.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import click

import exporters
from darkroom.serving.networks import ModelSpec
from darkroom.settings import Settings
from exporters.checkpoints.contents import Contents
from exporters.config import Placement
from exporters.errors import ExportError


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a family's command module gives; the module's docstring says what each is."""

    name: str
    commands: tuple[click.Command, ...]
    prepare: Callable[[Settings, Path], None]
    kind: str
    classes: tuple[str, ...]
    recognises: Callable[[Contents], bool]
    arguments: Callable[[str, Contents], list[str]]
    placement: Callable[[Settings, ModelSpec, Placement], Placement]


@cache
def families() -> dict[str, Family]:
    """Every family by its name, in the order of the names."""
    found = {}
    for module in pkgutil.iter_modules(exporters.__path__):
        package = f"{exporters.__name__}.{module.name}"
        if module.ispkg and _has_command(package):
            found[module.name] = _family(module.name, importlib.import_module(f"{package}.command"))
    return dict(sorted(found.items()))


def _has_command(package: str) -> bool:
    path = importlib.import_module(package).__path__
    return any(module.name == "command" for module in pkgutil.iter_modules(path))


def _family(name: str, module: ModuleType) -> Family:
    classes = tuple(getattr(module, "CLASSES", ()))
    return Family(
        name=name,
        commands=tuple(module.COMMANDS),
        prepare=module.prepare,
        kind=getattr(module, "KIND", name),
        classes=classes,
        recognises=getattr(module, "recognises", lambda contents: contents.class_name in classes),
        arguments=getattr(module, "arguments", lambda checkpoint, contents: ["--checkpoint", checkpoint]),
        placement=getattr(module, "placement", lambda settings, spec, usual: usual),
    )


def chosen(settings: Settings) -> dict[str, Family]:
    """The families that FAMILIES names; all of them where it names none."""
    wanted = settings.families
    return {name: family for name, family in families().items() if not wanted or name in wanted}


def family_of(contents: Contents) -> Family:
    """The family that a checkpoint is of.

    :raises ExportError: it is of none.
    """
    for family in families().values():
        if family.recognises(contents):
            return family
    known = [f"{family.kind} ({', '.join(family.classes)})" for family in families().values() if family.classes]
    raise ExportError(
        f"{contents.title} is a checkpoint of an unknown kind: {contents.described}. Known are {', '.join(known)}."
    )
