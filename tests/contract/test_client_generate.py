"""Generation with the Python client and the command line, against the real service."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from darkroom_client import GenerateResult, InvalidRequest, Preview, Progress
from PIL import Image

from tests.clients import Call, darkroom
from tests.conftest import heed_ctrl_c
from tests.pictures import encoded, photo, pixels
from tests.service import RunningService

PROMPT = "a cat on a blue background"
FAST: dict[str, Any] = {"steps": 3, "seed": 42, "timeout": 120}
DRAWING = encoded(photo(128, 0, 256, 256))


def furthest(one: bytes, other: bytes) -> int:
    """The largest difference of two images on any pixel, of 255."""
    return int(np.abs(pixels(one).astype(int) - pixels(other).astype(int)).max())


def wait_until_idle(service: RunningService, timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while (answer := service.health()) is None or answer.json()["active_tasks"]:
        assert time.monotonic() < deadline, "the service still works for a client that has left"
        time.sleep(0.05)


def unet_rows(service: RunningService) -> float:
    """Rows that the denoising network has computed so far."""
    return service.counter("nv_inference_count", "sd15_unet")


def test_pictures_of_consecutive_seeds(call: Call, service: RunningService) -> None:
    result: GenerateResult = call(service.url, "generate", PROMPT, num_images=2, **FAST)
    assert [(image.index, image.seed) for image in result.images] == [(0, 42), (1, 43)]
    assert {image.media_type for image in result.images} == {"image/png"}
    for image in result.images:
        assert pixels(image.data).shape == (result.height, result.width, 3)
    assert furthest(result.images[0].data, result.images[1].data) > 2
    assert (result.seed, result.control_map) == (42, None)
    assert result.parameters["prompt"] == PROMPT
    assert result.request_id
    alone = call(service.url, "generate", PROMPT, **{**FAST, "seed": 43})
    # Two pictures are computed in one batch, which may turn a rounding.
    assert furthest(alone.images[0].data, result.images[1].data) <= 2


def test_a_seed_is_drawn_and_makes_the_same_picture_again(call: Call, service: RunningService) -> None:
    drawn = call(service.url, "generate", PROMPT, **{**FAST, "seed": None})
    again = call(service.url, "generate", PROMPT, **{**FAST, "seed": drawn.seed})
    assert furthest(drawn.images[0].data, again.images[0].data) <= 2


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_events_give_the_same_pictures(call: Call, service: RunningService, format: str) -> None:
    options = {**FAST, "num_images": 2, "format": format}
    seen: list[Progress] = []
    streamed = call(service.url, "generate", PROMPT, on_progress=seen.append, **options)
    plain = call(service.url, "generate", PROMPT, **options)
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert seen[-1].done == seen[-1].total >= FAST["steps"]
    for one, other in zip(streamed.images, plain.images, strict=True):
        assert (one.seed, one.media_type) == (other.seed, f"image/{format}")
        assert one.open().format == format.upper()
        if format == "png":
            assert furthest(one.data, other.data) <= 2
    assert streamed.parameters.keys() == plain.parameters.keys()


def test_previews(call: Call, service: RunningService) -> None:
    seen: list[Preview] = []
    call(service.url, "generate", PROMPT, on_preview=seen.append, **{**FAST, "steps": 6, "preview_every": 2})
    assert [preview.done for preview in seen] == sorted({preview.done for preview in seen})
    assert len(seen) >= 2
    for preview in seen:
        with Image.open(io.BytesIO(preview.image)) as image:
            assert image.get_format_mimetype() == preview.media_type
            image.load()


def test_control(call: Call, service: RunningService) -> None:
    seen: list[Progress] = []
    free = call(service.url, "generate", PROMPT, **FAST)
    steered = call(service.url, "generate", PROMPT, control_image=DRAWING, on_progress=seen.append, **FAST)
    plain = call(service.url, "generate", PROMPT, control_image=DRAWING, **FAST)
    assert steered.control_map is not None
    edges = pixels(steered.control_map)
    assert edges.shape[:2] == (steered.height, steered.width)
    assert set(np.unique(edges)) == {0, 255}
    assert steered.control_map == plain.control_map
    assert furthest(steered.images[0].data, plain.images[0].data) <= 2
    assert furthest(steered.images[0].data, free.images[0].data) > 2
    many = call(service.url, "generate", PROMPT, control_image=DRAWING, low_threshold=10, high_threshold=20, **FAST)
    assert pixels(many.control_map).mean() > edges.mean()


def test_image_that_is_changed(call: Call, service: RunningService) -> None:
    free = call(service.url, "generate", PROMPT, width=256, height=256, **FAST)
    changed = call(service.url, "generate", PROMPT, init_image=DRAWING, strength=0.7, **FAST)
    masked = call(service.url, "generate", PROMPT, init_image=DRAWING, mask=DRAWING, strength=0.7, **FAST)
    assert (changed.width, changed.height) == (256, 256)
    assert (changed.parameters["strength"], masked.parameters["masked"]) == (0.7, True)
    images = [result.images[0].data for result in (free, changed, masked)]
    assert len(set(images)) == 3


def test_pictures_carry_their_parameters(call: Call, service: RunningService) -> None:
    options = {**FAST, "num_images": 2, "negative_prompt": "text, \u732b", "guidance_scale": 3.5}
    result = call(service.url, "generate", PROMPT, **options)
    found = call(service.url, "png_info", result.images[1].data)
    assert found.parameters.startswith(PROMPT)
    assert "text, \u732b" in found.parameters
    assert found.fields
    assert found.darkroom["seed"] == 43
    assert (found.darkroom["steps"], found.darkroom["guidance_scale"]) == (3, 3.5)
    assert "parameters" in found.chunks
    nothing = call(service.url, "png_info", encoded(photo(0, 0, 8, 8)))
    assert (nothing.parameters, nothing.darkroom) == (None, None)


def test_status(call: Call, service: RunningService) -> None:
    status = call(service.url, "status")
    assert status.active_workers > 0
    assert status.raw["generate"]["limits"]["max_images"] >= 1
    assert status.total_gpus == len(status.gpu_info)
    assert status.pending_tasks >= status.task_queue_size >= 0


@pytest.mark.parametrize("on_progress", [None, lambda _: None], ids=["plain", "events"])
@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"steps": 100_000}, "steps"),
        ({"width": 100}, "width"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"num_images": 10_000}, "num_images"),
        ({"scheduler": "no-such"}, "scheduler"),
        ({"format": "gif"}, "format"),
        ({"control_image": b"no image"}, "control_image"),
        ({"control_image": DRAWING, "controlnet_conditioning_scale": 9}, "controlnet_conditioning_scale"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals_name_the_field(
    call: Call, service: RunningService, options: dict[str, Any], param: str, on_progress: Any
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call(service.url, "generate", PROMPT, on_progress=on_progress, **{**FAST, **options})
    assert caught.value.param == param
    assert caught.value.request_id


class Enough(Exception):
    """Raised by a callback that has seen enough."""


def test_leaving_stops_the_work(call: Call, service: RunningService) -> None:
    def leave(progress: Progress) -> None:
        assert progress.total >= 100
        raise Enough

    before = unet_rows(service)
    with pytest.raises(Enough):
        call(service.url, "generate", PROMPT, on_progress=leave, **{**FAST, "steps": 100})
    wait_until_idle(service)
    assert unet_rows(service) - before < 100  # of 200: two rows for each step


def test_the_command_line(service: RunningService, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("generate", PROMPT, "-n", "3", "--steps", "3", "--seed", "42", "-o", str(out), "--grid", "--json")
    first = darkroom(service.url, *words)
    assert first.exit_code == 0, first.output
    name = "a-cat-on-a-blue-background-42"
    grid = out / f"{name}-grid.png"
    told = [json.loads(line) for line in first.stdout.splitlines()]
    assert sorted(line["seed"] for line in told[:-1]) == [42, 43, 44]
    assert told[-1] == {"grid": str(grid), "state": "done"}
    for line in told[:-1]:
        with Image.open(line["file"]) as image:
            width, height = image.size
    with Image.open(grid) as image:
        assert image.size == (2 * width + 4, 2 * height + 4)

    (out / "a-cat-on-a-blue-background-43.png").unlink()
    again = darkroom(service.url, *words)
    assert again.exit_code == 0
    assert "1 done, 2 skipped" in again.stderr
    other = darkroom(service.url, "generate", PROMPT, "--steps", "4", "--seed", "42", "-o", str(out))
    assert f"{name}-2.png (seed 42" in other.stderr

    info = darkroom(service.url, "png-info", str(out / f"{name}-2.png"))
    assert info.exit_code == 0
    assert info.stdout.startswith(PROMPT)
    assert "Steps: 4" in info.stdout
    without = darkroom(service.url, "png-info", str(grid))
    assert (without.exit_code, "carries no parameters" in without.stderr) == (1, True)
    assert "schedulers: ddim, " in darkroom(service.url, "status").stdout


def test_control_on_the_command_line(service: RunningService, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(DRAWING)
    edges, out = tmp_path / "edges.png", tmp_path / "out.webp"
    control = ("--control", str(tmp_path / "in.png"), "--control-map", str(edges), "--control-end", "0.5")
    result = darkroom(service.url, "generate", PROMPT, "--steps", "3", *control, "-o", str(out))
    assert result.exit_code == 0, result.output
    with Image.open(out) as image, Image.open(edges) as map:
        assert image.format == "WEBP"
        assert map.size == image.size
    wrong = darkroom(service.url, "generate", PROMPT, *control, "--control-scale", "9", "-o", str(tmp_path))
    assert wrong.exit_code == 1
    assert "(--control-scale)" in wrong.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_stops_the_service_too(
    service: RunningService, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    wait_until_idle(service)
    words = [PROMPT, "-n", "4", "--steps", "150", "--seed", "42", "--preview-every", "1", "-o", str(tmp_path / "out")]
    command = [sys.executable, "-m", "darkroom_client", "generate", *words, "--url", service.url]
    before = unet_rows(service)
    # A session of its own, with SIGINT as a terminal gives it: a test run in the background has it ignored.
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/*.preview.*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no preview came"
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Stopped: 0 done, 4 not finished" in said
    assert "Traceback" not in said
    assert list((tmp_path / "out").iterdir()) == []
    wait_until_idle(service)
    time.sleep(1)  # a step that was under way may end
    stopped_at = unet_rows(service)
    assert stopped_at - before < 600  # of 1200
    time.sleep(1)
    assert unet_rows(service) == stopped_at
