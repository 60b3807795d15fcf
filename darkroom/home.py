"""Where the code is, and the home folder: settings, models and data.

In a checkout both are the checkout. The code of an installed wheel is in site-packages, which belongs to pip, so the
home folder is elsewhere: DARKROOM_HOME, by default `~/.darkroom`. `darkroom init` makes it.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "DARKROOM_HOME"
CODE = Path(__file__).resolve().parents[1]
"""The folder of the packages: the checkout, or site-packages."""
_IN_WHEEL = CODE / "darkroom" / "shipped"  # written by setup.py into wheels only
INSTALLED = _IN_WHEEL.is_dir()
"""Whether this is an installed wheel, not a checkout."""
SHIPPED = _IN_WHEEL if INSTALLED else CODE
"""The folder of files that are no packages: `backends` and `policies`."""


def default_home() -> Path:
    """The home folder where DARKROOM_HOME is not set."""
    return Path.home() / ".darkroom" if INSTALLED else CODE


def _home() -> Path:
    given = os.environ.get(VARIABLE)
    return Path(given).expanduser().absolute() if given else default_home()


ROOT = _home()
"""The home folder. Relative paths in settings are relative to it."""
ENV_FILE = ROOT / ".env"
STATE = ".darkroom" if ROOT == CODE else "state"
"""The default of STATE_DIR."""
INSTALL = "pip install with the wheel's extra cpu or gpu (docs/install.md)" if INSTALLED else "./install.sh"
PREPARE = "./start.sh" if ROOT == CODE else "darkroom serve --prepare"
"""For messages: what installs packages, and what exports missing models and starts."""
