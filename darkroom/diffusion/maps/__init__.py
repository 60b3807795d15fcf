"""Maps of an image that a model follows: edges, a sketch, depth and keypoints, each by a module of this package.

Edges and sketches are computed. Depth and keypoints need a model, which a setting names; without one they are refused.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from darkroom.errors import Conflict
from darkroom.images import Pixels

MapMaker = Callable[[Pixels], Pixels]
"""(height, width, 3) uint8 RGB -> a map of the same shape."""

COMPUTED = ("edges", "sketch")
BY_MODEL = ("depth", "keypoints")
MAPS = (*COMPUTED, *BY_MODEL)


def load_maps(models: Mapping[str, str | None], beside: Path | None = None) -> dict[str, MapMaker]:
    """The maps that can be made here.

    A module that needs a model has `load(folder)`, which returns a MapMaker; the others have `make`, which is one.

    :param models: of each of BY_MODEL the folder of its model, as transformers lays it out, or a hub id; None for none.
    :param beside: the folder of the pipeline, where `exporters prepare` puts models of the hub: see `fetched`.
    :raises OSError, ValueError: a model cannot be loaded.
    """
    made: dict[str, MapMaker] = {name: _module(name).make for name in COMPUTED}
    return made | {name: _module(name).load(_folder(name, model, beside)) for name, model in models.items() if model}


def fetched(name: str, beside: Path) -> Path:
    """Where a model of the hub lies in the folder of a pipeline."""
    return beside / f"{name}_model"


def _folder(name: str, model: str, beside: Path | None) -> Path:
    places = [Path(model), *([] if beside is None else [fetched(name, beside)])]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"the model for {name}, {model}, is not there; ./start.sh fetches those of the hub")
    return found


def require_map(name: str, models: Mapping[str, str | None], setting: str, param: str) -> None:
    """:raises Conflict: the map needs a model, and there is none.

    :param setting: the variable that names the model, for the error.
    :param param: the field that asks for the map.
    """
    if name in BY_MODEL and not models.get(name):
        raise Conflict(f"{param}: {name} needs a model, and {setting} names none here.", param=param)


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
