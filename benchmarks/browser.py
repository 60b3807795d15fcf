"""Chromium without a window, for measurements and tests of web pages."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start the Chromium of this machine.

    :raises FileNotFoundError: there is none; `./install.sh --dev` installs it on Debian and Ubuntu.
    """
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise FileNotFoundError("Chromium is not installed: apt install chromium")
    with sync_playwright() as playwright:
        # Chromium's own sandbox needs rights that root in a container does not have; /dev/shm may be small there.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()
