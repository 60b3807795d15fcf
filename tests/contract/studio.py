"""What people do in the studio, for its tests."""

from __future__ import annotations

import re
from collections.abc import Mapping

from playwright.sync_api import FilePayload, Locator, Page, expect


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


def new_session(page: Page, images: Mapping[str, bytes], caption: str) -> Locator:
    """Make a session on the page Train, with images by the names of their files; returns its panel."""
    opened(page, "train")
    page.wait_for_load_state("networkidle")  # the panels that are there already are shown
    there = page.get_by_role("article").count()
    page.get_by_role("button", name="New session").click()
    expect(page.get_by_role("article")).to_have_count(there + 1)
    session = page.get_by_role("article").first
    files: list[FilePayload] = [
        {"name": name, "mimeType": "image/png", "buffer": data} for name, data in images.items()
    ]
    session.get_by_label("Add images").set_input_files(files)
    for name in images:
        session.get_by_label(f"Caption of {name}").fill(caption)
    session.get_by_role("button", name=f"Add {len(images)} images").click()
    expect(session).to_contain_text(f"{len(images)} images")
    return session


def image_paths(shown: Locator, count: int) -> list[str]:
    """The addresses of a card's images, once all are loaded."""
    images = shown.get_by_role("button", name="Show image").locator("img")
    expect(images).to_have_count(count)
    expect(images.last).to_have_js_property("complete", True)
    assert all(
        images.nth(index).evaluate("one => one.decode().then(() => one.naturalWidth)") == 128 for index in range(count)
    )
    return [str(images.nth(index).get_attribute("src")) for index in range(count)]
