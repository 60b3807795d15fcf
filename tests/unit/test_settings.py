"""Settings: defaults, the environment, `.env.example`, and the way to child processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from darkroom.pipelines.hidream.request import Limits as HidreamLimits
from darkroom.pipelines.sd15.request import Limits as GenerateLimits
from darkroom.pipelines.upscale.request import Limits as UpscaleLimits
from darkroom.settings import ROOT, Settings
from proxy.operations import OPERATIONS
from proxy.operations.pictures import PictureOperation


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setitem(Settings.model_config, "env_file", None)


def test_defaults_are_those_of_the_contract() -> None:
    settings = Settings()
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    assert (settings.triton_http_port, settings.triton_grpc_port, settings.triton_metrics_port) == (8010, 8001, 8002)
    assert (settings.task_queue_size, settings.task_timeout) == (100, 300)
    assert (settings.upscale_tile, settings.upscale_tile_pad, settings.upscale_fp16) == (400, 10, True)


@pytest.mark.parametrize("gpus", [(), ("A", "B")])
def test_the_example_explains_every_setting_and_shows_its_default(
    monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...]
) -> None:
    """Also on a machine with GPUs, which this test only claims."""
    monkeypatch.setattr("darkroom.devices.gpu_names", lambda: gpus)
    lines = (ROOT / ".env.example").read_text().splitlines()
    shown = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert {name.upper() for name in Settings.model_fields} == set(shown)
    for name, value in shown.items():
        monkeypatch.setenv(name, value)
    from_example = Settings()
    for name in shown:
        monkeypatch.delenv(name)
    assert from_example == Settings()


def test_children_get_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "http://a.example, http://b.example")
    monkeypatch.setenv("LOG_DIR", str(tmp_path))
    monkeypatch.setenv("log_level", "debug")
    monkeypatch.setenv("HIDREAM_COMPILE", "yes")
    ours = Settings()
    assert ours.cors_origins == ("http://a.example", "http://b.example")
    monkeypatch.setattr(os, "environ", ours.environment())
    assert Settings() == ours
    assert os.environ["HIDREAM_COMPILE"] == "1", "Triton's models read it as it stands"


def test_pipelines_read_the_limits_that_the_proxy_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides validate: the proxy with its settings, the Triton models with their environment."""
    monkeypatch.setenv("GENERATE_MAX_STEPS", "33")
    monkeypatch.setenv("GENERATE_MAX_CONTROL_PIXELS", "1000")
    monkeypatch.setenv("UPSCALE_MAX_PIXELS", "2000")
    monkeypatch.setenv("UPSCALE_TILE_PAD", "0")
    monkeypatch.setenv("HIDREAM_MAX_STEPS", "44")
    ours = Settings()
    assert (ours.generate_limits.max_steps, ours.generate_limits.max_control_pixels) == (33, 1000)
    monkeypatch.setattr(os, "environ", ours.environment())
    assert GenerateLimits.from_env() == ours.generate_limits
    assert UpscaleLimits.from_env() == ours.limits
    assert HidreamLimits.from_env() == ours.hidream_limits
    assert (ours.limits.tile_pad, ours.hidream_limits.max_steps) == (0, 44)


def test_relative_folders_belong_to_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_DIR", "somewhere/logs")
    assert Settings().log_dir == ROOT / "somewhere" / "logs"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "http"),
        ("TASK_TIMEOUT", "-1"),
        ("UPSCALE_TILE", "8"),
        ("GENERATE_MAX_PIXELS", "4095"),
        ("GENERATE_MAX_STEPS", "0"),
        ("LOG_LEVEL", "loud"),
        ("SUBMIT_OPERATION", "paint"),
    ],
)
def test_wrong_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_submit_does_every_operation_that_makes_pictures_of_a_text() -> None:
    named = get_args(Settings.model_fields["submit_operation"].annotation)
    assert set(named) == {"auto", *(name for name, one in OPERATIONS.items() if isinstance(one, PictureOperation))}
