"""A LoRA is trained from the page Train of the studio, on the checkpoint that the service serves, and is used."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import obstacles
from tests.contract.studio import card, generated, image_paths, new_session, opened
from tests.pictures import encoded, photo
from tests.service import RunningService


@pytest.fixture(scope="module")
def service(lora_service: RunningService) -> RunningService:
    return lora_service


def begun(page: Page, *, steps: int, samples: int = 0) -> Locator:
    """Make a session with two images and captions, and start its training; returns its panel."""
    images = {f"cat-{at}.png": encoded(photo(32 * at, 0, 64, 64)) for at in (1, 2)}
    session = new_session(page, images, "a photo of a cat")
    # A panel is found by its name from here on: other tests may make sessions meanwhile.
    name = str(session.get_attribute("aria-label"))
    session = page.get_by_role("article", name=name, exact=True)
    for label, value in (("Steps", steps), ("Rank", 2), ("Image size", 64), ("Sample images", samples)):
        session.get_by_label(label, exact=True).fill(str(value))
    session.get_by_role("button", name="Start training").click()
    return session


def removed(page: Page, session: Locator) -> None:
    page.once("dialog", lambda asked: asked.accept())
    session.get_by_role("button", name="Delete session").click()
    expect(session).to_have_count(0)


def test_training_shows_its_steps_and_losses_and_is_cancelled(page: Page) -> None:
    session = begun(page, steps=100_000)
    expect(session).to_contain_text(re.compile(r"Training · \d+ % · Step \d+ of 100000"))
    expect(session.get_by_text(re.compile(r"Loss \d"))).to_be_visible()
    expect(session.get_by_role("img", name="Curve of the losses")).to_be_visible()
    assert obstacles(page) == []
    session.get_by_role("button", name="Pause").click()
    expect(session).to_contain_text("Paused")
    page.reload()
    expect(session).to_contain_text(re.compile(r"Paused · \d+ % · Step \d+ of 100000"))
    session.get_by_role("button", name="Resume").click()
    expect(session).to_contain_text("Training ·")
    session.get_by_role("button", name="Cancel").click()
    expect(session.get_by_role("alert")).to_have_text("The training was cancelled.")
    expect(session.get_by_role("button", name="Start training")).to_be_visible()
    removed(page, session)


def test_trained_lora_has_a_curve_and_samples_and_is_used_to_create(page: Page) -> None:
    session = begun(page, steps=2, samples=1)
    expect(session).to_contain_text("Newest LoRA: lora_1.safetensors")
    curve = session.get_by_role("img", name="Curve of the losses")
    assert curve.evaluate("one => one.decode().then(() => one.naturalWidth)") > 100
    samples = session.get_by_role("img", name=re.compile(r"Epoch \d+: a photo of a cat"))
    assert samples.count() == 2  # an epoch of two images is one step
    assert samples.last.evaluate("one => one.decode().then(() => one.naturalWidth)") == 128
    assert obstacles(page) == []
    session.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("heading", name="Create images")).to_be_visible()
    prompt = "a cat by the trained LoRA"  # the card of the training has its own words
    image_paths(generated(page, prompt, steps=2), 1)
    card(page, prompt).get_by_role("button", name="Show image").click()
    expect(page.get_by_role("dialog").locator("dl")).to_contain_text("lora_1")
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    opened(page, "train")
    removed(page, session)
