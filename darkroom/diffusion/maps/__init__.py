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


def load_maps(models: Mapping[str, str | None]) -> dict[str, MapMaker]:
    """The maps that can be made here.

    A module that needs a model has `load(folder)`, which returns a MapMaker; the others have `make`, which is one.

    :param models: of each of BY_MODEL the folder of its model, as transformers lays it out; None for none.
    :raises OSError, ValueError: a model cannot be loaded.
    """
    made: dict[str, MapMaker] = {name: _module(name).make for name in COMPUTED}
    return made | {name: _module(name).load(Path(folder)) for name, folder in models.items() if folder}


def require_map(name: str, models: Mapping[str, str | None], setting: str, param: str) -> None:
    """:raises Conflict: the map needs a model, and there is none.

    :param setting: the variable that names the model, for the error.
    :param param: the field that asks for the map.
    """
    if name in BY_MODEL and not models.get(name):
        raise Conflict(f"{param}: {name} needs a model, and {setting} names none here.", param=param)


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
