"""The baseline of the benchmarks against diffusers."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion
from PIL import Image

from benchmarks.baseline.generator import Generator
from benchmarks.baseline.request import GenerateBody
from benchmarks.clients import Rest, closed_loop
from benchmarks.errors import BenchmarkError
from benchmarks.processes import Server
from benchmarks.sd15.jobs import Job, content, make_jobs, pictures
from benchmarks.subjects import running_baseline
from darkroom.diffusion.controls import ControlOptions, load_control
from tests import tiny_sd15
from tests.pictures import encoded, photo, pixels
from training.tokens import write_tokenizer

SIDE = tiny_sd15.SIDE
JOB = Job(prompt="a cat on a blue background", seed=5, steps=3, side=SIDE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny checkpoint and a ControlNet for it, on disk."""
    folder = tmp_path_factory.mktemp("tiny")
    pipeline = tiny_sd15.make_pipeline(folder / "parts")
    pipeline.save_pretrained(folder / "sd15")
    write_tokenizer(folder / "sd15" / "tokenizer")
    tiny_sd15.make_controlnet(pipeline.unet).save_pretrained(folder / "canny")
    return folder / "sd15", folder / "canny"


@pytest.fixture(scope="module")
def baseline(folders: tuple[Path, Path]) -> Iterator[Server]:
    checkpoint, controlnet = folders
    with running_baseline(checkpoint, "--controlnet", str(controlnet), "--threads", "1") as server:
        yield server


@pytest.fixture(scope="module")
def pipeline(folders: tuple[Path, Path]) -> StableDiffusionPipeline:
    found = StableDiffusionPipeline.from_pretrained(folders[0])
    found.set_progress_bar_config(disable=True)
    return found


def test_the_baseline_makes_the_pictures_of_diffusers(baseline: Server, pipeline: StableDiffusionPipeline) -> None:
    body = JOB.body() | {"num_images": 2, "negative_prompt": "a pizza"}
    with Rest(baseline) as rest:
        answer = rest.generate(body)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    expected = pipeline(
        JOB.prompt, negative_prompt="a pizza", num_inference_steps=3, guidance_scale=7.5, width=SIDE, height=SIDE,
        num_images_per_prompt=2, generator=generators,
    ).images  # fmt: skip
    assert answer["seed"] == 5
    for data, image in zip(pictures(answer), expected, strict=True):
        assert np.abs(pixels(data).astype(int) - np.asarray(image)).max() <= 1
    assert answer["timings"]["generated"] > answer["timings"]["encoded"] > 0


def test_the_baseline_draws_its_noise_in_single_precision(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision, too, where what the pipeline itself draws depends on the version of torch."""
    monkeypatch.setattr(pipeline_stable_diffusion, "randn_tensor", None)
    body = GenerateBody(**JOB.body())
    single, half = (
        np.asarray(Generator(folders[0], dtype=dtype, threads=1)(body, JOB.seed, None)[0]).astype(int)
        for dtype in (torch.float32, torch.float16)
    )
    assert np.abs(single - half).mean() < 1  # 0.2; with another seed 106


def test_the_baseline_follows_the_edges_of_a_picture(
    baseline: Server, folders: tuple[Path, Path], pipeline: StableDiffusionPipeline
) -> None:
    data = encoded(photo(150, 80, SIDE, SIDE))
    body = JOB.body() | {"control_image": "data:image/png;base64," + base64.b64encode(data).decode()}
    with Rest(baseline) as rest:
        controlled = pixels(pictures(rest.generate(body))[0])
        plain = pixels(pictures(rest.generate(JOB.body()))[0])
    edges = load_control("canny").preprocess(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), ControlOptions())
    reference = tiny_sd15.controlled_pipeline(pipeline, tiny_sd15.make_controlnet(pipeline.unet))
    (expected,) = reference(
        JOB.prompt, image=Image.fromarray(edges), num_inference_steps=3, guidance_scale=7.5, width=SIDE, height=SIDE,
        generator=torch.Generator().manual_seed(5),
    ).images  # fmt: skip
    assert np.abs(controlled.astype(int) - np.asarray(expected)).max() <= 1
    assert np.abs(controlled.astype(int) - plain).max() > 1


def test_the_baseline_runs_one_job_at_a_time(baseline: Server) -> None:
    jobs = make_jobs(3, steps=40, side=SIDE)
    done: list[int] = []
    began = time.monotonic()
    answers = closed_loop(baseline, [job.post() for job in jobs], clients=3, on_done=done.append)
    seconds = time.monotonic() - began
    assert done == [1, 2, 3]
    assert {content(answer)["seed"] for answer in answers} == {job.seed for job in jobs}
    timings = [content(answer)["timings"] for answer in answers]
    assert min(found["generated"] for found in timings) > 0.1
    assert sum(found["generated"] for found in timings) <= seconds


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": "a cat", "width": 100}, "width"),
        ({"prompt": "a cat", "sampler": "ddim"}, "sampler"),
        ({"steps": 3}, "prompt"),
        ({"prompt": "a cat", "control_image": "AAAA"}, "control_image is not a base64 picture"),
    ],
)
def test_the_baseline_refuses(baseline: Server, fields: dict[str, Any], words: str) -> None:
    answer = httpx.post(f"{baseline.url}/generate", json=fields)
    assert answer.status_code == 422
    assert words in answer.text


def test_a_failing_request_ends_the_load(baseline: Server) -> None:
    posts = [make_jobs(1, steps=0, side=SIDE)[0].post()] * 3
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        closed_loop(baseline, posts, clients=2)


def test_no_checkpoint_no_baseline(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="is not there"), running_baseline(tmp_path / "none"):
        pass
