"""Upscaling in the browser: it gives what the server gives, goes on without it, and can be stopped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Locator, Page, expect

from tests.browser import obstacles, visitor
from tests.contract.studio import opened
from tests.pictures import encoded, photo, pixels, psnr
from tests.service import RunningService, Server, running_proxy, server_settings

ALIKE_DB = 45.0
SMALL = "animevideov3-x4"
PATIENCE_MS = 240_000
"""For a network in a browser on a busy machine: WebAssembly takes several times as long as the server."""


@pytest.fixture
def visited(browser: Browser, service: RunningService) -> Iterator[Page]:
    """A page with a service worker, as people have it."""
    with visitor(browser, service.url) as page:
        yield page


def with_alpha(image: Image.Image) -> Image.Image:
    """The image, more transparent from left to right; the right part has colours that nobody sees."""
    height, width = image.height, image.width
    alpha = np.clip(np.linspace(300, -40, width), 0, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([np.asarray(image), np.broadcast_to(alpha, (height, width))]))


def chosen(page: Page, place: str, *, model: str = "animevideov3", scale: str = "") -> None:
    """Choose where and how, on the page Upscale."""
    page.get_by_role("button", name=place, exact=True).click()
    page.get_by_role("combobox", name="Upscaler").select_option(model)
    page.get_by_label("Scale", exact=True).fill(scale)


def upscaled(page: Page, image: Image.Image, name: str) -> Locator:
    """Begin to upscale an image; returns its panel."""
    file: FilePayload = {"name": name, "mimeType": "image/png", "buffer": encoded(image)}
    page.get_by_label("Drop, paste or choose images").set_input_files(file)
    page.get_by_role("button", name="Upscale", exact=True).click()
    return page.get_by_role("article", name=name)


def saved(page: Page, panel: Locator) -> bytes:
    """The result of a panel, as it is downloaded."""
    with page.expect_download() as download:
        panel.get_by_role("button", name="Download").click()
    return Path(download.value.path()).read_bytes()


@pytest.mark.parametrize(
    ("image", "model", "scale"),
    [
        (photo(40, 60, 61, 47), "animevideov3", ""),
        (photo(150, 50, 301, 67), "animevideov3", "2.5"),
        (with_alpha(photo(200, 90, 90, 50)), "animevideov3", "3"),
        (photo(220, 100, 30, 23), "x4plus-anime", "4"),
    ],
    ids=["odd-size", "two-tiles-and-another-factor", "alpha", "another-network"],
)
def test_the_browser_gives_what_the_server_gives(
    page: Page, http: httpx.Client, image: Image.Image, model: str, scale: str
) -> None:
    opened(page, "upscale")
    chosen(page, "In this browser", model=model, scale=scale)
    panel = upscaled(page, image, "here.png")
    expect(panel.get_by_text(re.compile(rf"In this browser \(\w+\): {model}"))).to_be_visible(timeout=PATIENCE_MS)
    here = pixels(saved(page, panel))
    fields = {"model": model} | ({"scale": scale} if scale else {})
    answer = http.post("/api/upscale", data=fields, files={"file": ("a.png", encoded(image))})
    server = pixels(answer.raise_for_status().content)
    assert server.shape[2] == len(image.getbands())
    assert psnr(here, server) >= ALIKE_DB
    assert obstacles(page) == []


def test_an_upscale_in_the_browser_shows_its_tiles_and_is_cancelled(page: Page) -> None:
    opened(page, "upscale")
    chosen(page, "In this browser", scale="4")
    running = upscaled(page, photo().resize((600, 300)), "large.png")
    expect(running.get_by_text(re.compile(r"Tile [1-9]\d* of 6"))).to_be_visible(timeout=PATIENCE_MS)
    running.get_by_role("button", name="Cancel").click()
    expect(running.get_by_text("Cancelled")).to_be_visible()
    after = upscaled(page, photo(0, 0, 20, 20), "after.png")
    expect(after.get_by_role("img", name="after.png: After")).to_be_visible()
    running.get_by_role("button", name="Remove from the list").click()
    expect(running).to_have_count(0)


def test_the_page_and_the_upscaler_work_without_the_network(visited: Page) -> None:
    opened(visited, "upscale")
    expect(visited.get_by_text("runs on the server")).to_be_visible()
    kept(visited)
    visited.context.set_offline(True)
    visited.reload()
    expect(visited.get_by_text("The service does not answer")).to_be_visible()
    chosen(visited, "On the server", scale="4")
    panel = upscaled(visited, photo(0, 0, 40, 40), "offline.png")
    expect(visited.get_by_text("The server does not answer. This browser upscales")).to_be_visible()
    expect(panel.get_by_role("img", name="offline.png: After")).to_be_visible()
    visited.context.set_offline(False)
    expect(visited.get_by_text("The server does not answer. This browser upscales")).to_have_count(0)
    back = upscaled(visited, photo(0, 0, 40, 40), "back.png")
    expect(back.get_by_role("img", name="back.png: After")).to_have_attribute("src", re.compile("^images/"))
    expect(back.get_by_text("In this browser")).to_have_count(0)


def kept(page: Page) -> None:
    """Wait until the page has fetched what a browser needs, of its own accord."""
    page.get_by_role("combobox", name="Upscaler").select_option("animevideov3")
    page.get_by_label("Scale", exact=True).fill("4")
    expect(page.get_by_text(f"{SMALL} is kept in this browser.")).to_be_visible()


def test_images_go_to_the_browser_while_the_proxy_is_killed_or_full(browser: Browser, tmp_path: Path) -> None:
    """A proxy without Triton: it accepts one task, which waits, and refuses the next one."""
    settings = server_settings(tmp_path) | {"task_queue_size": 0, "max_concurrent_tasks": 1}
    with visitor(browser, f"http://127.0.0.1:{settings['port']}") as page:
        with running_proxy(tmp_path, **settings) as proxy:
            opened(page, "upscale")
            kept(page)
            upscaled(page, photo(0, 0, 24, 24), "first.png")
            full = upscaled(page, photo(0, 0, 24, 24), "full.png")
            expect(page.get_by_text("The server takes no image at the moment")).to_be_visible()
            expect(full.get_by_text("In this browser")).to_be_visible()
            killed(proxy)
        page.get_by_role("combobox", name="Upscaler").select_option("x4plus")
        away = upscaled(page, photo(0, 0, 24, 24), "away.png")
        expect(page.get_by_text("The server does not answer. This browser upscales")).to_be_visible()
        expect(away.get_by_text(f"{SMALL}, as x4plus is not kept in this browser")).to_be_visible()
        page.reload()  # from the service worker
        kept(page)
        again = upscaled(page, photo(0, 0, 24, 24), "again.png")
        expect(again.get_by_text("In this browser")).to_be_visible()
        with running_proxy(tmp_path, **settings | {"task_queue_size": 5}):
            expect(page.get_by_text("The server does not answer. This browser upscales")).to_have_count(0)
            back = upscaled(page, photo(0, 0, 24, 24), "back.png")
            expect(back.get_by_text("Place")).to_be_visible()


def killed(proxy: Server) -> None:
    for process in reversed(proxy.tree()):
        process.kill()
    proxy.process.wait()
