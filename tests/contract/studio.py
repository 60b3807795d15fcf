"""What people do in the studio, for its tests."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect


def opened(page: Page, name: str = "create") -> Page:
    page.goto(f"/#/{name}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    return page


def generated(page: Page, prompt: str, *, steps: int, count: int = 1) -> Locator:
    """Begin a task on the page Create; returns its card."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Steps").fill(str(steps))
    page.get_by_label("Images", exact=True).fill(str(count))
    page.get_by_role("button", name="Generate").click()
    return card(page, prompt)


def card(page: Page, prompt: str) -> Locator:
    return page.get_by_role("article", name=re.compile(re.escape(prompt))).first


def image_paths(shown: Locator, count: int) -> list[str]:
    """The addresses of a card's images, once all are loaded."""
    images = shown.get_by_role("button", name="Show image").locator("img")
    expect(images).to_have_count(count)
    expect(images.last).to_have_js_property("complete", True)
    assert all(
        images.nth(index).evaluate("one => one.decode().then(() => one.naturalWidth)") == 128 for index in range(count)
    )
    return [str(images.nth(index).get_attribute("src")) for index in range(count)]
