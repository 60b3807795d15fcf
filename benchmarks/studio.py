"""How soon the studio can be used: from the start of navigation until its first input takes text.

python -m benchmarks.studio --url http://127.0.0.1:8000
"""

from __future__ import annotations

import statistics

import click
from playwright.sync_api import Browser, Page

from benchmarks.browser import chromium

NOTE_WHEN_USABLE = """
const look = () => {
  if (document.querySelector("textarea[name=prompt]:enabled")) window.usable = performance.now()
  else requestAnimationFrame(look)
}
requestAnimationFrame(look)
"""
"""The form is drawn when the models are known, so the requests for these are in the time. `now` is 0 at navigation."""
USABLE_MS = 60_000


def usable_ms(page: Page, url: str) -> float:
    """Open the page; returns the milliseconds until the prompt takes text."""
    page.goto(url)
    page.locator("textarea[name=prompt]:enabled").wait_for(timeout=USABLE_MS)
    # Once the page has been drawn with it, the moment is noted.
    return float(page.evaluate("new Promise(done => requestAnimationFrame(() => done(window.usable)))"))


def measure(browser: Browser, url: str, visits: int) -> tuple[list[float], list[float]]:
    """First visits, each with an empty cache, and second ones, in milliseconds."""
    first, second = [], []
    for _ in range(visits):
        context = browser.new_context()
        context.add_init_script(NOTE_WHEN_USABLE)
        page = context.new_page()
        first.append(usable_ms(page, url))
        second.append(usable_ms(page, url))
        context.close()
    return first, second


@click.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Address of the service.")
@click.option("-n", "--visits", type=click.IntRange(1, 1000), default=10, show_default=True, help="New visitors.")
def main(url: str, visits: int) -> None:
    """Measure how soon the studio can be used, in a real browser on this machine."""
    with chromium() as browser:
        measure(browser, url, 1)  # the browser's own first page takes longer
        for name, times in zip(("first visit", "second visit"), measure(browser, url, visits), strict=True):
            click.echo(f"{name}: median {statistics.median(times):.0f} ms, slowest {max(times):.0f} ms of {visits}")


if __name__ == "__main__":
    main()
