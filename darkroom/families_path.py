"""FAMILIES_PATH: a folder with model families beside those of this checkout, as `pipelines/NAME` and `exporters/NAME`.

The packages `darkroom.pipelines` and `exporters` add their folder of it when they are imported, which is before any
settings are read.
"""

from __future__ import annotations

import os

from dotenv import dotenv_values

from darkroom.home import ENV_FILE, ROOT

_NAME = "FAMILIES_PATH"


def folders_of(package: str) -> list[str]:
    """The folder of FAMILIES_PATH that belongs to a package; empty without one.

    :param package: "pipelines" or "exporters".
    """
    value = os.environ.get(_NAME) or dotenv_values(ENV_FILE).get(_NAME)
    folder = ROOT / value / package if value else None
    return [str(folder)] if folder is not None and folder.is_dir() else []
