"""Chromium for tests of web pages, and what it complains about."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, ViewportSize, expect

from benchmarks.browser import chromium

__all__ = ["PATIENCE_MS", "Complaints", "chromium", "drop", "obstacles", "visitor"]

PATIENCE_MS = 60_000
"""How long something on a page may take on a busy machine."""
_SERIOUS = ("serious", "critical")
_REFUSED = "Failed to load resource: the server responded with a status of 4"
"""What Chromium writes of every refusal, also of one that a test is about."""


@dataclass
class Complaints:
    """What went wrong on a page without being seen on it."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def listen(self, page: Page, url: str) -> None:
        """Collect errors of scripts, messages of the console, and requests to others than the service."""

        def logged(message: ConsoleMessage) -> None:
            if message.type == "error" and not message.text.startswith(_REFUSED):
                self.errors.append(message.text)

        def requested(request: Request) -> None:
            if not request.url.startswith((url, "blob:", "data:")):
                self.foreign.append(request.url)

        page.on("console", logged)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", requested)


@contextlib.contextmanager
def visitor(browser: Browser, url: str, *, service_workers: Literal["allow", "block"] = "allow") -> Iterator[Page]:
    """Open an empty page of a new visitor of the service at `url`."""
    size: ViewportSize = {"width": 1280, "height": 900}
    context = browser.new_context(locale="en-GB", viewport=size, base_url=url, service_workers=service_workers)
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    try:
        yield context.new_page()
    finally:
        context.close()


def obstacles(page: Page) -> list[dict[str, Any]]:
    """What axe finds that keeps people from using a page: rule and the first element of each serious violation."""
    violations = Axe().run(page).response["violations"]
    return [
        {"rule": one["id"], "impact": one["impact"], "element": one["nodes"][0]["html"][:200]}
        for one in violations
        if one["impact"] in _SERIOUS
    ]


_DROP = """([selector, name, kind, bytes]) => {
  const data = new DataTransfer()
  data.items.add(new File([Uint8Array.from(bytes)], name, { type: kind }))
  const target = document.querySelector(selector)
  for (const type of ["dragover", "drop"])
    target.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }))
}"""


def drop(page: Page, selector: str, name: str, data: bytes) -> None:
    """Drop a PNG on an element, as a person would from another window."""
    page.evaluate(_DROP, [selector, name, "image/png", list(data)])
