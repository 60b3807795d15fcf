"""The pages of the studio that take images: masks, upscaling, editing, and sessions of training."""

from __future__ import annotations

import io
import re

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from tests.browser import drop, obstacles
from tests.contract.studio import card, generated, image_paths, opened
from tests.pictures import encoded, photo


def file_of(image: Image.Image, name: str = "photo.png") -> FilePayload:
    """A PNG as a person chooses it."""
    return {"name": name, "mimeType": "image/png", "buffer": encoded(image)}


def test_a_painted_mask_says_what_is_made_again(page: Page, http: httpx.Client) -> None:
    opened(page)
    page.get_by_text("Start from an image", exact=True).first.click()
    page.get_by_label("Start from an image").set_input_files(file_of(photo(0, 0, 128, 128)))
    page.get_by_role("button", name="Paint a mask").click()
    painting = page.get_by_role("dialog", name="Paint a mask")
    canvas = painting.get_by_role("application")
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] - 2, steps=4)
    page.mouse.up()
    canvas.press("Space")  # in the middle
    assert obstacles(page) == []
    painting.get_by_role("button", name="Done").click()
    expect(page.get_by_role("img", name="Mask")).to_be_visible()
    shown = page.get_by_role("img", name="Mask")
    white = shown.evaluate(
        """async one => {
          await one.decode()
          const canvas = new OffscreenCanvas(one.naturalWidth, one.naturalHeight), context = canvas.getContext("2d")
          context.drawImage(one, 0, 0)
          const at = (x, y) => [...context.getImageData(x, y, 1, 1).data]
          return [at(1, 64), at(64, 64), at(120, 20)]
        }"""
    )
    assert white == [[255] * 4, [255] * 4, [0, 0, 0, 255]]
    page.get_by_label("Strength").first.fill("1")
    (path,) = image_paths(generated(page, "a pizza", steps=4), 1)
    with Image.open(io.BytesIO(http.get(f"/{path}").content)) as image:
        changed = np.abs(np.asarray(image, np.int16) - np.asarray(photo(0, 0, 128, 128), np.int16)).mean(axis=2)
    assert changed[:, :8].mean() > 2 * changed[:, 96:].mean()


def test_a_control_image_steers(page: Page) -> None:
    opened(page)
    page.get_by_text("Follow an image", exact=True).first.click()
    page.get_by_label("Follow an image").set_input_files(file_of(photo(0, 0, 128, 128)))
    page.get_by_label("Control strength").first.fill("0.75")
    image_paths(generated(page, "a cat along the edges", steps=3), 1)
    card(page, "a cat along the edges").get_by_role("button", name="Show image").click()
    expect(page.get_by_role("img", name="Control image")).to_be_visible()
    map = page.get_by_role("img", name="Control map")
    assert map.evaluate("one => one.decode().then(() => one.naturalWidth)") == 128
    settings = page.get_by_role("dialog").locator("dl")
    expect(settings).to_contain_text("canny")
    expect(settings).to_contain_text("0.75")


def test_images_are_upscaled_and_compared(page: Page) -> None:
    opened(page, "upscale")
    drop(page, "h1", "first.png", encoded(photo(0, 0, 48, 32)))
    drop(page, ".drop", "second.png", encoded(photo(9, 9, 32, 48)))
    page.get_by_role("combobox", name="Upscaler").select_option("animevideov3")
    page.get_by_label("Scale", exact=True).fill("2")
    page.get_by_role("button", name="Upscale", exact=True).click()
    for name, size in (("first.png", [96, 64]), ("second.png", [64, 96])):
        panel = page.get_by_role("article", name=name)
        after = panel.get_by_role("img", name=f"{name}: After")
        expect(after).to_be_visible()
        assert after.evaluate("one => one.decode().then(() => [one.naturalWidth, one.naturalHeight])") == size
    slider = page.get_by_role("slider", name="Share of the left image").first
    slider.fill("80")
    expect(page.locator(".compare-images").first).to_have_attribute("style", re.compile("--share: ?80%"))
    page.get_by_role("button", name="4×").first.click()
    assert obstacles(page) == []


def test_edits_show_the_sixteen_modes_and_what_each_needs(page: Page, http: httpx.Client) -> None:
    opened(page, "edit")
    expect(page.get_by_text("No model for editing is installed")).to_be_visible()
    expect(page.get_by_role("radio")).to_have_count(17)  # and the free one
    for mode in http.get("/edit-modes").json():
        expect(page.get_by_text(mode["name"], exact=True)).to_be_visible()
    page.get_by_role("radio", name="Replace text").check()
    expect(page.get_by_label("Old text")).to_be_visible()
    page.get_by_role("radio", name="Depth map").check()
    expect(page.get_by_label("Control image", exact=True)).to_be_attached()
    page.get_by_label("Drop, paste or choose images").set_input_files(
        [file_of(photo(at, 0, 32, 32), f"{at}.png") for at in range(6)]
    )
    expect(page.get_by_role("img", name=re.compile(r"Image \d"))).to_have_count(5)
    expect(page.get_by_role("button", name="Edit", exact=True)).to_be_disabled()


def test_sessions_get_images_with_captions(page: Page, http: httpx.Client) -> None:
    opened(page, "train")
    before = len(http.get("/list_sessions").json()["sessions"])
    expect(page.get_by_role("article")).to_have_count(before)
    page.get_by_role("button", name="New session").click()
    expect(page.get_by_role("article")).to_have_count(before + 1)
    session = page.get_by_role("article").first
    session.get_by_label("Add images").set_input_files(file_of(photo(0, 0, 64, 64), "cat.png"))
    session.get_by_label("Caption of cat.png").fill("a cat")
    session.get_by_role("button", name="Add 1 images").click()
    expect(session).to_contain_text("1 images")
    expect(session.get_by_role("button", name="Start training")).to_be_visible()
    name = session.get_attribute("aria-label")
    assert name is not None
    page.once("dialog", lambda asked: asked.accept())
    session.get_by_role("button", name=f"Delete {name[0].lower()}{name[1:]}").click()
    expect(page.get_by_role("article", name=name)).to_have_count(0)
