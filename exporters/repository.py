"""Lists the models of a repository, and writes the configs of new ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from darkroom.registry import all_specs
from darkroom.serving.networks import ModelSpec, is_label, split_label
from darkroom.settings import Settings
from exporters import config
from exporters.config import Placement
from exporters.onnx_export import MODEL_NAME


def specs_of(repository: Path) -> tuple[ModelSpec, ...]:
    """Every model of a repository: those of all families, and of further checkpoints under their labels.

    What comes only with its export (`on_demand`, and everything with a label) is left out where it has no folder.
    """
    specs = all_specs()
    usual = [spec for spec in specs if not spec.on_demand or (repository / spec.name).is_dir()]
    labelled = [spec.labelled(label) for label in labels_of(repository) for spec in specs]
    return (*usual, *(spec for spec in labelled if (repository / spec.name).is_dir()))


def labels_of(repository: Path) -> tuple[str, ...]:
    """The labels of checkpoints that a repository holds beside those without one."""
    known = {spec.name for spec in all_specs()}
    folders = [split_label(path.name) for path in repository.iterdir() if path.is_dir()] if repository.is_dir() else []
    return tuple(sorted({label for name, label in folders if name in known and is_label(label)}))


def chosen(repository: Path, names: Sequence[str], specs: Iterable[ModelSpec]) -> list[ModelSpec]:
    """Those of the specs that `--model` names; all of them when it names none.

    :raises BadParameter: a name is not among them.
    """
    known = {spec.name: spec for spec in specs}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.BadParameter(
            f"{unknown[0]!r} is no such model of {repository}; there are {', '.join(known)}.", param_hint="'--model'"
        )
    return [spec for spec in known.values() if not names or spec.name in names]


def installed(repository: Path, spec: ModelSpec) -> bool:
    """Whether a network has weights, of any checkpoint."""
    return (repository / spec.name / "1" / MODEL_NAME).exists()


def place(repository: Path, spec: ModelSpec, like: ModelSpec | None = None) -> None:
    """Write the config of a new model in a repository, for the devices that its networks run on. An existing config
    stays, except as `config.renew` says.

    :param like: the model whose devices it gets, where that has a config.
    """
    if config.config_path(repository, spec).is_file():
        config.renew(repository, spec)
        return
    found = placement_in(repository, [like] if like else []) or placement_in(repository, specs_of(repository))
    config.write_configs(repository, [spec], found or Placement(gpus=Settings().gpus))


def placement_in(repository: Path, specs: Iterable[ModelSpec]) -> Placement | None:
    """The placement of the networks that are in a repository: that of the first of `specs` with a readable config.

    None if there is none. Networks in Python are left out, as they may have devices of their own.
    """
    for spec in specs:
        path = config.config_path(repository, spec)
        if spec.is_network and spec.backend != "python" and path.is_file():
            with contextlib.suppress(ValueError):
                return config.placement_of(path.read_text(), spec)
    return None
