"""What a request for pictures may say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.diffusion.controls import control_names, load_control
from darkroom.diffusion.schedulers import SCHEDULERS, scheduler_key, scheduler_name
from darkroom.errors import InvalidInput, TooLarge
from darkroom.pipelines.sd15.checkpoint import Sd15CheckpointInfo
from darkroom.pipelines.sd15.networks import CONTROL_UNETS, UNET, VAE_DECODER
from darkroom.pipelines.sd15.request import SEED_RANGE, GenerateRequest
from darkroom.pipelines.sd15.settings import Settings
from darkroom.serving.networks import RowCaps

LIMITS = Settings()


def parse(**fields: Any) -> GenerateRequest:
    return GenerateRequest.parse({"prompt": "a cat", **fields}, LIMITS)


def test_defaults_are_those_of_the_contract() -> None:
    request = parse()
    assert (request.steps, request.guidance_scale, request.num_images) == (20, None, 1)
    assert request.guided
    assert (request.width, request.height, request.negative_prompt) == (None, None, None)
    assert parse(negative_prompt="").negative_prompt == ""
    assert request.control is None
    control = parse(control_image=b"image").control
    assert control is not None
    assert (control.kind, control.options.low_threshold, control.options.high_threshold) == ("canny", 100, 200)
    assert control.conditioning_scale == 1.0


CHECKPOINT = Sd15CheckpointInfo(
    name="toy",
    digest="",
    side=512,
    scheduler={},
    latent_rgb=[],
    max_tokens=77,
    guidance_scale=2.5,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=1,
)


def test_what_is_absent_is_the_checkpoints() -> None:
    completed = parse(width=256).completed(CHECKPOINT, LIMITS)
    assert (completed.width, completed.height, completed.guidance_scale) == (256, 512, 2.5)
    assert parse(guidance_scale=0).completed(CHECKPOINT, LIMITS).guidance_scale == 0
    with pytest.raises(TooLarge, match="at most 1,048,576 pixels; got 512x4096"):
        parse(height=4096).completed(CHECKPOINT, LIMITS)


def test_seeds_are_drawn_when_absent() -> None:
    assert len({parse().seed for _ in range(20)}) > 1
    assert parse(seed=0).seed == 0
    assert parse(seed=SEED_RANGE[1]).seed + LIMITS.max_images < 2**63


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be from 1 to 150; got 0"),
        ({"guidance_scale": 51}, "guidance_scale must be from 0 to 50; got 51"),
        ({"guidance_scale": float("inf")}, "guidance_scale must be from 0 to 50; got inf"),
        ({"seed": -2}, "seed must be from 0"),
        ({"width": 65}, "width must be a multiple of 8; got 65"),
        ({"height": 56}, "height must be from 64 to 16384; got 56"),
        ({"num_images": 9}, "num_images must be from 1 to 8; got 9"),
        ({"scheduler": "x"}, "scheduler must be one of ddim, pndm, euler, .*; got 'x'"),
        ({"control_type": "x", "control_image": b"image"}, "control_type must be one of canny; got 'x'"),
        ({"control_image": b"image", "low_threshold": 0}, "low_threshold must be from 1 to 255; got 0"),
        (
            {"control_image": b"image", "low_threshold": 201},
            "low_threshold must not be above high_threshold, 200; got 201",
        ),
        (
            {"control_image": b"image", "controlnet_conditioning_scale": 3},
            "controlnet_conditioning_scale must be from 0",
        ),
        ({"low_threshold": 999}, "low_threshold must be from 1 to 255; got 999"),  # also where it would do nothing
        ({"control_image": b"image", "control_guidance_start": 1.0}, "control_guidance_start must be below"),
        ({"control_image": b"image", "control_guidance_end": 1.5}, "control_guidance_end must be from 0 to 1; got 1.5"),
        ({"format": "gif"}, "format must be one of png, webp, jpeg, raw; got 'gif'"),
        ({"quality": 0}, "quality must be from 1 to 100; got 0"),
        ({"progress_every": -1}, "progress_every must be from 0 to 150; got -1"),
        ({"preview_every": -1}, "preview_every must be from 0 to 150; got -1"),
        ({"prompt": "x" * 4001}, "prompt must have at most 4000 characters; got 4001"),
        ({"prompt": None}, "prompt is missing"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(**fields)


def test_guidance_of_one_and_below_is_none() -> None:
    assert [parse(guidance_scale=scale).guided for scale in (0, 1.0, 1.01)] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("euler_a", "euler_a"),
        ("Euler a", "euler_a"),
        ("EulerAncestralDiscreteScheduler", "euler_a"),
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("dpmpp-2m-karras", "dpmpp_2m_karras"),
        ("DPM++ 2M", "dpmpp_2m"),
        ("DPM++ 2M SDE Karras", "dpmpp_2m_sde_karras"),
        ("Euler Karras", "euler_karras"),
        ("DPM2 a", "dpm2_a"),
        ("DPMSolverMultistep", "dpmpp_2m"),
        ("DPMSolverMultistepScheduler", "DPMSolverMultistepScheduler"),
        ("eulerdiscretescheduler", "EulerDiscreteScheduler"),
        ("DEISMultistepScheduler", "DEISMultistepScheduler"),
        ("PLMS", "pndm"),
        ("UniPCMultistep", "unipc"),
    ],
)
def test_schedulers_by_any_of_their_names(text: str, name: str) -> None:
    assert scheduler_name(text) == name


def test_a_checkpoints_own_scheduler_has_a_name() -> None:
    assert scheduler_key({"_class_name": "PNDMScheduler"}) == "pndm"
    assert scheduler_key({"_class_name": "DEISMultistepScheduler"}) == "DEISMultistepScheduler"
    assert len({spec.title for spec in SCHEDULERS.values()}) == len(SCHEDULERS)


def test_every_control_has_its_network_and_preprocessor() -> None:
    assert set(CONTROL_UNETS) == set(control_names()) == {"canny"}
    assert all(load_control(name).TITLE for name in control_names())


def test_a_further_kind_of_control_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "stripes.py").write_text('TITLE = "stripes"\n\ndef preprocess(picture, options):\n    return picture\n')
    program = f"""
from darkroom.errors import InvalidInput
from darkroom.diffusion import controls
controls.__path__.append({str(tmp_path)!r})
from darkroom.pipelines.sd15.networks import CONTROL_UNETS
from darkroom.pipelines.sd15.request import GenerateRequest
from darkroom.pipelines.sd15.settings import Settings
from exporters.config import Placement, render
fields = {{"prompt": "a cat", "control_type": "stripes", "control_image": b"image"}}
assert GenerateRequest.parse(fields, Settings()).control.kind == "stripes"
try:
    GenerateRequest.parse({{"prompt": "a cat", "control_type": "stripes"}}, Settings())
except InvalidInput as error:
    assert error.message.startswith("control_image is missing"), error
else:
    raise AssertionError("a kind of control wants a picture")
assert controls.load_control("stripes").TITLE == "stripes"
assert 'name: "sd15_unet_stripes"' in render(CONTROL_UNETS["stripes"], Placement())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_rows_fall_with_the_size() -> None:
    for spec in (UNET, *CONTROL_UNETS.values(), VAE_DECODER):
        for parameters in (spec.parameters, {**spec.parameters, **spec.parameters_cpu}):
            caps = RowCaps.parse(parameters["rows_by_size"])
            found = [rows for _, rows in caps.rows]
            assert found == sorted(found, reverse=True)
            assert caps.input == spec.inputs[0].name
            assert caps.most({"latents": np.empty((1, 4, 500, 500))}) == 1


def test_a_client_may_send_every_default() -> None:
    fields = {"prompt": "a cat", "control_type": "canny", "low_threshold": 100, "high_threshold": 200}
    assert GenerateRequest.parse(fields, Settings()).control is None


def test_the_usual_steps_are_no_more_than_the_limit() -> None:
    assert GenerateRequest.parse({"prompt": "a cat"}, Settings(max_steps=8)).steps == 8


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD15_MAX_STEPS", "30")
    monkeypatch.setenv("SD15_MAX_IMAGES", "")
    assert (Settings().max_steps, Settings().max_images) == (30, 8)
