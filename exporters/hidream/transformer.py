"""The transformer's weights beside its model.py: the checkpoint's own safetensors, which are read as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from exporters import manifest
from exporters.checkpoints.components import Component
from exporters.errors import ExportError
from exporters.export import ModelExport, install, staging
from exporters.hidream import weights
from exporters.hidream.export import CheckpointSources
from exporters.manifest import Manifest
from exporters.tasks import Stage

STAGES = ("check weights", "install")
_MODE = 0o644


def current_hash() -> str:
    """The hash of everything that shapes the files."""
    return manifest.code_hash(["exporters.hidream.transformer"])


def export(wanted: ModelExport, sources: CheckpointSources, stage: Stage) -> Manifest:
    """Check that the weights are those of config.json, and put both in place.

    :raises ExportError: they are not, or are no safetensors.
    """
    stage("check weights")
    component = sources.read().parts[weights.TRANSFORMER]
    if not component.safetensors:
        raise ExportError(f"{component.root.name}: the weights of the transformer have to be safetensors.")
    for problem in _mismatches(component):
        raise ExportError(f"{component.root.name}/transformer holds the weights of another network: {problem}.")
    source = wanted.checkpoint.source(component.files)
    stage("install")
    with staging(wanted) as staged:
        files = [name for name in component.files if not name.endswith(".index.json")]
        placed = {Path(name).name: _stage(component.root / name, staged) for name in files}
        for left in set(wanted.folder.glob("*.safetensors")) - {wanted.folder / name for name in placed}:
            left.unlink()  # another checkpoint's: all files of the folder are read
        return install(wanted, placed, exporter=current_hash(), sources={"checkpoint": source})


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


def _mismatches(component: Component) -> Iterator[str]:
    """What the headers of the files say against the model that config.json describes; no weights are read."""
    import torch
    from diffusers import HiDreamImageTransformer2DModel
    from safetensors import SafetensorError, safe_open

    with torch.device("meta"):
        model = HiDreamImageTransformer2DModel.from_config(component.config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    for name in component.weights:
        if name.endswith(".safetensors"):
            try:
                with safe_open(component.root / name, "pt") as file:
                    found |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            except SafetensorError as error:
                raise ExportError(f"{component.root.name}/{name} cannot be read: {error}.") from None
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            yield f"{key} has the shape {found.get(key)}, expected {wanted.get(key)}"
