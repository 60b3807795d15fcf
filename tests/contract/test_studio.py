"""The studio in a real browser, on the real service: images are made, found again, and made again."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from playwright.sync_api import Browser, FilePayload, Page, Route, expect

from benchmarks.studio import measure
from tests.browser import drop, obstacles
from tests.contract.studio import card, generated, image_paths, opened
from tests.pictures import distance, encoded, photo, pixels
from tests.service import RunningService

PAGES = ("create", "gallery", "upscale", "edit", "train", "status")


def test_images_are_made_and_their_settings_make_them_again(page: Page, http: httpx.Client) -> None:
    opened(page)
    paths = image_paths(generated(page, "a cat on a blue background", steps=4, count=2), 2)
    page.reload()
    page.get_by_role("link", name="Gallery").click()
    found = card(page, "a cat on a blue background")
    assert image_paths(found, 2) == paths
    found.get_by_role("button", name="Show image 2").click()
    assert obstacles(page) == []
    page.get_by_role("dialog").get_by_role("button", name="Use these settings").click()
    expect(page.get_by_label("Seed", exact=True)).not_to_have_value("")
    expect(page.get_by_role("button", name="Keep this seed")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Images", exact=True)).to_have_value("1")
    page.get_by_role("button", name="Generate").click()
    (again,) = image_paths(card(page, "a cat on a blue background"), 1)
    first, second = (http.get(f"/{path}") for path in (paths[1], again))
    assert again not in paths
    # In the first task it shared its steps with another image, and was the second of two.
    assert distance(pixels(first.content), pixels(second.content)) <= 2


def test_a_running_task_is_followed_after_a_reload_and_cancelled(page: Page) -> None:
    opened(page)
    running = generated(page, "a long exposure of a pizza", steps=150, count=4)
    expect(running.get_by_text(re.compile(r"Step \d+ of \d+"))).to_be_visible()
    expect(running.get_by_role("img", name="Preview")).to_be_visible()
    page.reload()
    again = card(page, "a long exposure of a pizza")
    expect(again.get_by_text(re.compile(r"Step \d+ of \d+"))).to_be_visible()
    again.get_by_role("button", name="Cancel").click()
    cancelled = page.get_by_role("article", name="Cancelled: a long exposure of a pizza")
    expect(cancelled).to_be_visible()
    cancelled.get_by_role("button", name="Remove from the list").click()
    expect(cancelled).to_have_count(0)


def test_what_the_service_refuses_is_said_beside_the_form(page: Page) -> None:
    opened(page)
    page.get_by_label("Prompt", exact=True).fill("a cat AND a dog")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("AND")
    steps = page.get_by_label("Steps")
    steps.fill("100000")
    page.get_by_role("button", name="Generate").click()
    assert steps.evaluate("one => one.validity.rangeOverflow")


def test_a_dropped_image_fills_in_its_settings(page: Page, http: httpx.Client) -> None:
    fields = {
        "prompt": "an owl on a pink background",
        "steps": 3,
        "seed": 77,
        "scheduler": "euler",
        "guidance_scale": 3.5,
    }
    made = http.post("/generate", json=fields, headers={"Accept": "image/png"}).content
    opened(page, "status")
    drop(page, "h1", "owl.png", made)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("an owl on a pink background")
    for label, value in (("Steps", "3"), ("Seed", "77"), ("Guidance", "3.5")):
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    expect(page.get_by_role("combobox", name="Scheduler")).to_have_value("euler")
    expect(page.get_by_role("status").filter(has_text="Settings taken from owl.png.")).to_be_visible()


@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_is_accessible_in_both_colours_and_fits(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(reduced_motion="reduce")  # colours change at once
    for name in PAGES:
        opened(page, name)
        page.wait_for_load_state("networkidle")
        for theme in ("light", "dark"):
            page.get_by_label("Colours").select_option(theme)
            assert obstacles(page) == [], (theme, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_language_and_colours_survive_a_reload(page: Page) -> None:
    opened(page)
    page.get_by_label("Language").select_option("zh")
    page.get_by_label("配色").select_option("dark")
    page.reload()
    expect(page.get_by_role("heading", name="生成圖片")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hant")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_service_with_keys_asks_for_one_and_gets_it(page: Page) -> None:
    """The answers of a service with keys come from here: this one has none."""
    sent: list[str | None] = []

    def guarded(route: Route) -> None:
        sent.append(route.request.headers.get("authorization"))
        if sent[-1] == "Bearer secret":
            return route.continue_()
        error = {"code": "unauthorized", "message": "A key is missing.", "param": None}
        body = json.dumps({"detail": error["message"], "error": error})
        return route.fulfill(status=401, content_type="application/json", body=body)

    page.route("**/tasks?*", guarded)
    page.goto("/#/gallery")
    asked = page.get_by_role("dialog", name="This service needs a key")
    assert obstacles(page) == []
    asked.get_by_label("Key").fill("secret")
    with page.expect_response(lambda answer: "/tasks" in answer.url and answer.ok):
        asked.get_by_role("button", name="Use this key").click()
    expect(asked).to_have_count(0)
    page.reload()
    expect(page.get_by_role("button", name="Key…")).to_be_visible()
    assert sent[0] is None
    assert sent[-1] == "Bearer secret"


def test_a_declined_key_is_not_asked_for_again_until_something_is_made(page: Page) -> None:
    error = {"code": "unauthorized", "message": "A key is missing.", "param": None}
    body = json.dumps({"detail": error["message"], "error": error})
    opened(page, "status")
    for path in ("**/status", "**/tasks"):
        page.route(path, lambda route: route.fulfill(status=401, content_type="application/json", body=body))
    asked = page.get_by_role("dialog", name="This service needs a key")
    asked.get_by_role("button", name="Close").click()
    for _ in range(2):
        with page.expect_response(lambda answer: answer.url.endswith("/status")):
            pass
    expect(page.get_by_role("alert").filter(has_text="A key is missing.")).to_be_visible()
    expect(asked).to_have_count(0)
    expect(page.get_by_role("button", name="Key…")).to_be_visible()
    page.get_by_role("link", name="Upscale").click()
    file: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": encoded(photo(0, 0, 16, 16))}
    page.get_by_label("Drop, paste or choose images").set_input_files(file)
    page.get_by_role("button", name="Upscale", exact=True).click()
    expect(asked).to_be_visible()


def test_the_pages_fit_a_narrow_phone_without_a_scroll_bar_in_the_navigation(page: Page) -> None:
    opened(page)
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 700})
        for language in ("en", "zh"):
            page.locator(".top-tools select").last.select_option(language)
            navigation = page.locator(".top nav")
            assert navigation.evaluate("one => one.scrollWidth - one.clientWidth") == 0, (width, language)
            assert navigation.evaluate("one => one.scrollHeight - one.clientHeight") == 0, (width, language)


def test_the_gallery_gives_files_that_are_no_images(page: Page) -> None:
    """The task comes from here: a training takes minutes."""
    lora = {"name": "cat.safetensors", "filename": "cat.safetensors", "media_type": "application/octet-stream"}
    lora |= {"bytes": 3, "details": {}, "url": "/tasks/t1/results/cat.safetensors"}
    at = "2026-01-01T00:00:00Z"
    task = {"task_id": "t1", "operation": "train", "model": None, "status": "completed", "progress": 100, "step": 1}
    task |= {"total_steps": 1, "queue_position": None, "estimated_time": 0, "created_at": at, "completed_at": at}
    task |= {"processing_time": 1.0, "results": [lora], "error": None}
    page.route("**/tasks?*", lambda route: route.fulfill(json={"tasks": [task]}))
    page.route("**/tasks/t1/results/*", lambda route: route.fulfill(body=b"abc"))
    opened(page, "gallery")
    with page.expect_download() as download:
        page.get_by_role("button", name="cat.safetensors").click()
    assert download.value.suggested_filename == "cat.safetensors"


def test_status_names_the_models(page: Page) -> None:
    opened(page, "status")
    expect(page.get_by_role("definition").filter(has_text="Healthy")).to_be_visible()
    ready = page.get_by_role("row").filter(has_text="Ready")
    expect(ready.first).to_be_visible()
    assert ready.count() > 1


def test_time_until_the_page_can_be_used_is_measured(browser: Browser, service: RunningService) -> None:
    """`python -m benchmarks.studio`; how long it takes is not the matter of a test on a busy machine."""
    first, second = measure(browser, service.url, 1)
    assert len(first) == len(second) == 1
    assert min(*first, *second) > 0


def test_docs_show_the_operations_without_the_internet(page: Page) -> None:
    page.goto("/docs")
    expect(page.get_by_text("Begin a task").first).to_be_visible()
