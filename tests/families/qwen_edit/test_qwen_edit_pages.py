"""Pages on a service that can do everything: the studio's way through its pages, and the Gradio playground.

The checkpoint for editing has random weights, so that what an edit shows is noise; that it is asked for and arrives is
what counts here.
"""

from __future__ import annotations

import io
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client as GradioClient
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from benchmarks.processes import Server
from darkroom.pipelines.upscale.networks import NETWORKS
from tests.browser import Complaints, chromium, obstacles, visitor
from tests.contract.conftest import SD15
from tests.pictures import encoded, photo, pixels, psnr
from tests.playground import running_playground
from tests.service import RunningService, link_models, running_service

COUNT_CLICKS = """addEventListener("click", event => {
  if (event.isTrusted && event.detail) window.clicks = (window.clicks ?? 0) + 1
}, true)"""
"""Counts what a mouse does; clicks that a label hands on, and those of the keyboard, have no `detail`."""
MOST_CLICKS = 8


@pytest.fixture(scope="module")
def service(qwen_edit_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Text to image with its ControlNet, editing, and upscaling."""
    folder = tmp_path_factory.mktemp("pages")
    upscaler = ("upscale", *(network.model_name for network in NETWORKS))
    repository = link_models(folder / "models", *SD15, "sd15_unet_canny", *upscaler)
    link_models(repository, *(model.name for model in qwen_edit_repository.iterdir()), source=qwen_edit_repository)
    with running_service(folder, model_repository=repository, canary_interval=3600) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, service: RunningService) -> Iterator[Page]:
    with visitor(browser, service.url) as page:
        yield page


def test_newcomer_makes_an_image_makes_it_larger_and_changes_its_background(
    page: Page, service: RunningService
) -> None:
    """What docs/studio.md describes, with a mouse and a keyboard."""
    complaints = Complaints()
    complaints.listen(page, service.url)
    page.add_init_script(COUNT_CLICKS)
    page.goto(service.url)
    page.get_by_label("Prompt", exact=True).click()
    page.keyboard.type("a cat on a blue background")
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Show image 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Upscale").click()
    page.get_by_role("button", name="Upscale", exact=True).click()
    larger = page.get_by_role("article", name=re.compile(r"\.png"))
    expect(larger.get_by_role("img", name="After")).to_have_js_property("naturalWidth", 256)
    larger.get_by_role("button", name="Edit").click()
    expect(page.get_by_role("textbox", name="What to change")).to_be_focused()
    page.keyboard.type("make the background red")
    page.get_by_role("button", name="Edit", exact=True).click()
    edited = page.get_by_role("article", name="make the background red").get_by_role("img", name="After")
    expect(edited).to_have_js_property("naturalWidth", 256)
    assert 1 <= page.evaluate("window.clicks") <= MOST_CLICKS
    assert obstacles(page) == []
    assert (complaints.errors, complaints.foreign) == ([], [])


@pytest.fixture(scope="module")
def playground(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_playground(tmp_path_factory.mktemp("playground"), service.url) as running:
        yield running


@pytest.fixture
def gradio(playground: Server, tmp_path: Path) -> Iterator[GradioClient]:
    """The API of the page, as Gradio's own client has it."""
    client = GradioClient(playground.url, verbose=False, download_files=str(tmp_path), analytics_enabled=False)
    yield client
    client.close()


def file_of(image: Image.Image, folder: Path) -> Any:
    (folder / "sent.png").write_bytes(encoded(image))
    return handle_file(str(folder / "sent.png"))


def test_playground_makes_the_image_that_the_service_makes(gradio: GradioClient, service: RunningService) -> None:
    images, state, parameters = gradio.predict(
        "a cat on a blue background", model="sd15", steps=4, seed=5, num_images=2, api_name="/create"
    )
    assert (state, parameters["seed"], parameters["steps"], len(images)) == ("Done", 5, 4, 2)
    shown = Path(images[0]["image"]).read_bytes()
    sent = {"prompt": "a cat on a blue background", "model": "sd15", "steps": 4, "seed": 5}
    wanted = httpx.post(f"{service.url}/generate", json={**sent, "num_images": 2}, timeout=120).json()
    assert parameters == wanted["parameters"]
    with Image.open(io.BytesIO(shown)) as image:
        assert "parameters" in image.info, "it still says how it was made"


def test_playground_shows_previews_and_steps(gradio: GradioClient) -> None:
    job = gradio.submit("a pizza", steps=8, seed=5, api_name="/create")
    job.result(timeout=120)
    states = [update[1] for update in job.outputs()]
    assert (states[0], states[-1]) == ("Waiting", "Done")
    assert "Step 8 of 9" in states, "the last one writes the image"
    galleries = [update[0] for update in job.outputs() if isinstance(update[0], list)]  # else it is as it was
    captions = [image["caption"] for gallery in galleries for image in gallery]
    assert "Preview" in captions
    assert captions[-1] == "seed 5"


def test_playground_follows_an_image(gradio: GradioClient, tmp_path: Path) -> None:
    image = file_of(photo(150, 30, 128, 128), tmp_path)
    map, result, state, parameters = gradio.predict(
        control_image=image, control_type="canny", prompt="a cat", steps=3, seed=5, api_name="/control"
    )
    assert (state, parameters["control_type"]) == ("Done", "canny")
    edges = pixels(Path(map).read_bytes())
    assert set(edges.ravel().tolist()) == {0, 255}
    assert pixels(Path(result).read_bytes()).shape[:2] == edges.shape[:2] == (128, 128)


def test_playground_edits_in_a_mode(gradio: GradioClient, tmp_path: Path) -> None:
    image = {"image": file_of(photo(150, 30, 96, 80), tmp_path), "caption": None}
    texts = {"old_text": "Hello", "new_text": "Hi"}
    compared, state, file, parameters = gradio.predict(
        [image], "as on paper", mode=9, steps=2, true_guidance_scale=1, seed=5, **texts, api_name="/edit"
    )
    assert state == "Done"
    assert "Hello" in parameters["prompt"]
    before, after = (pixels(Path(path).read_bytes()) for path in compared)
    assert before.shape == after.shape == (80, 96, 3)
    assert psnr(before, after) < 40, "it was changed"
    assert Path(file).read_bytes() == Path(compared[1]).read_bytes()


def test_playground_enlarges(gradio: GradioClient, tmp_path: Path) -> None:
    image = file_of(photo(0, 0, 48, 32), tmp_path)
    compared, state, file = gradio.predict(image, model="animevideov3", scale=2, api_name="/upscale")
    assert state == "Done"
    assert [pixels(Path(path).read_bytes()).shape for path in compared] == [(32, 48, 3), (64, 96, 3)]
    assert Path(file).name == "upscaled-2x.png"


def test_playground_says_what_the_service_refuses(gradio: GradioClient) -> None:
    with pytest.raises(AppError, match="AND"):
        gradio.predict("a cat AND a dog", api_name="/create")
    with pytest.raises(AppError, match="choose the image"):
        gradio.predict(None, api_name="/upscale")


def test_playground_page_loads_nothing_from_elsewhere(page: Page, playground: Server, tmp_path: Path) -> None:
    complaints = Complaints()
    complaints.listen(page, playground.url)
    page.goto(playground.url)
    page.get_by_label("Prompt").first.fill("a cat on a blue background")
    page.get_by_role("button", name="Generate").first.click()
    expect(page.get_by_label("State").first).to_have_value("Done")
    for tab in ("ControlNet", "Edit", "Upscale"):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
    page.wait_for_load_state("networkidle")
    assert (complaints.errors, complaints.foreign) == ([], [])


def test_playground_stops_work_that_nobody_waits_for(page: Page, playground: Server, service: RunningService) -> None:
    page.goto(playground.url)
    page.get_by_label("Prompt").first.fill("a long exposure of a pizza")
    page.get_by_label("number input for Steps").first.fill("150")
    page.get_by_role("button", name="Generate").first.click()
    expect(page.get_by_label("State").first).to_have_value(re.compile(r"Step \d+ of 151"))
    page.get_by_role("button", name="Stop").first.click()
    expect(page.get_by_label("State").first).to_have_value("Stopped")
    for _ in range(600):
        if httpx.get(f"{service.url}/status").json()["active_tasks"] == 0:
            break
        page.wait_for_timeout(100)
    else:
        pytest.fail("the service goes on")


def test_playground_ends_by_ctrl_c(service: RunningService, tmp_path: Path) -> None:
    # Programs that a script starts in the background ignore SIGINT, and so do their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with running_playground(tmp_path, service.url) as playground:
        playground.process.send_signal(signal.SIGINT)
        assert playground.process.wait(30) == 130
        assert "Traceback" not in playground.log()
