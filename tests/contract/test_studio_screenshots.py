"""Screenshots of the studio for the documentation, with images that are made for them.

    pytest -m heavy -k screenshots

writes `docs/images/studio/` anew: each page at the width of a desktop and of a phone, light and dark.
"""

from __future__ import annotations

import io

import httpx
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from tests.contract.studio import generated, image_paths, new_session, opened
from tests.pictures import encoded, photo
from tests.service import ROOT
from tests.training_service import wait_ended

FOLDER = ROOT / "docs" / "images" / "studio"
SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
PROMPTS = (
    "a cat on a blue background",
    "an owl on a pink background",
    "a pizza on a green background",
    "a dog on a yellow background",
)
MOST_BYTES = 2_500_000
"""Of all screenshots together."""


def fill_create(page: Page) -> None:
    opened(page)
    for prompt in PROMPTS:
        image_paths(generated(page, prompt, steps=20, count=4), 4)


def fill_upscale(page: Page) -> None:
    opened(page, "upscale")
    file: FilePayload = {"name": "astronaut.png", "mimeType": "image/png", "buffer": encoded(photo(170, 20, 128, 128))}
    page.get_by_label("Drop, paste or choose images").set_input_files(file)
    page.get_by_label("Scale", exact=True).fill("4")
    page.get_by_role("button", name="Upscale").click()
    expect(page.get_by_role("article", name="astronaut.png").get_by_role("img", name="After")).to_be_visible()


def fill_edit(page: Page) -> None:
    """Without a result: the demo checkpoints have none for editing."""
    opened(page, "gallery")
    page.get_by_role("button", name="Show image 1").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="What to change").fill("make the background red")
    page.get_by_role("radio", name="Free").check()


def fill_train(page: Page, http: httpx.Client) -> None:
    """A session that is trained."""
    images = {f"astronaut-{at}.png": encoded(photo(150 + 8 * at, 10, 128, 128)) for at in (1, 2)}
    session = new_session(page, images, "a photo of an astronaut")
    for label, value in (("Steps", "12"), ("Learning rate", "0.001"), ("Sample images", "1")):
        session.get_by_label(label, exact=True).fill(value)
    session.get_by_role("button", name="Start training").click()
    expect(session).to_contain_text("Training")
    name = str(session.get_attribute("aria-label"))
    assert wait_ended(http, name.split()[-1], seconds=400)["status"] == "completed"
    expect(session.get_by_role("img", name="Curve of the losses")).to_be_visible()


@pytest.mark.heavy
def test_screenshots_of_every_page(page: Page, http: httpx.Client) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    fill_create(page)
    fill_upscale(page)
    fill_edit(page)
    fill_train(page, http)
    written = 0
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for theme in ("light", "dark"):
            for name in ("create", "gallery", "upscale", "edit", "train", "status"):
                opened(page, name)
                page.get_by_label("Colours").select_option(theme)
                page.wait_for_load_state("networkidle")
                page.evaluate("document.activeElement?.blur(), scrollTo(0, 0)")
                path = FOLDER / f"{name}-{size}-{theme}.webp"
                with Image.open(io.BytesIO(page.screenshot(animations="disabled"))) as image:
                    image.convert("RGB").save(path, quality=82, method=6)
                written += path.stat().st_size
    assert written < MOST_BYTES
