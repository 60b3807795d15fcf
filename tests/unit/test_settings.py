"""Settings: defaults, the environment, families, old names, and the way to child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from darkroom import env_example
from darkroom.family_settings import FamilySettings, settings_classes
from darkroom.pipelines.hidream.settings import Settings as HidreamSettings
from darkroom.pipelines.sd15.settings import Settings as Sd15Settings
from darkroom.pipelines.upscale.settings import Settings as UpscaleSettings
from darkroom.settings import ROOT, Settings
from proxy.models import of_operation
from tests.forget_settings import forget_settings

OLD_LIMITS = ("MAX_PIXELS", "MAX_STEPS", "MAX_IMAGES", "MAX_PROMPT", "MAX_CONTROL_PIXELS")


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


def test_defaults_are_those_of_the_contract() -> None:
    settings = Settings()
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    assert (settings.triton_http_port, settings.triton_grpc_port, settings.triton_metrics_port) == (8010, 8001, 8002)
    assert (settings.task_queue_size, settings.task_timeout) == (100, 300)
    upscale = UpscaleSettings.of(settings)
    assert (upscale.tile, upscale.tile_pad, upscale.fp16) == (400, 10, True)


# --- .env.example


def shown() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    found = dict(pairs)
    assert len(found) == len(pairs), "each variable stands there once"
    return found


@pytest.mark.parametrize("gpus", [(), ("A", "B")])
def test_the_example_shows_every_setting_and_its_default(
    monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...]
) -> None:
    """Also on a machine with GPUs, which this test only claims."""
    monkeypatch.setattr("darkroom.devices.gpu_names", lambda: gpus)
    of_families = {one.variable(name) for one in settings_classes().values() for name in one.model_fields}
    assert {name.upper() for name in Settings.model_fields} | of_families == set(shown())
    for name, value in shown().items():
        monkeypatch.setenv(name, value)
    from_example = Settings()
    for name in shown():
        monkeypatch.delenv(name)
    assert from_example == Settings()
    assert from_example.family_settings == Settings().family_settings


def test_the_example_is_the_one_that_the_settings_make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = CliRunner().invoke(env_example.main, ["--check"])
    assert check.exit_code == 0, check.output
    text = (ROOT / ".env.example").read_text()
    assert max(map(len, text.splitlines())) <= 118

    edited = tmp_path / ".env.example"
    edited.write_text(text.replace("TASK_QUEUE_SIZE=100", "TASK_QUEUE_SIZE=99"))
    monkeypatch.setattr(env_example, "_FILE", edited)
    check = CliRunner().invoke(env_example.main, ["--check"])
    assert check.exit_code == 1
    assert {"-TASK_QUEUE_SIZE=99", "+TASK_QUEUE_SIZE=100"} <= set(check.output.splitlines())
    assert CliRunner().invoke(env_example.main, []).exit_code == 0
    assert edited.read_text() == text


# --- child processes


def test_children_get_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "http://a.example, http://b.example")
    monkeypatch.setenv("LOG_DIR", str(tmp_path))
    monkeypatch.setenv("log_level", "debug")
    monkeypatch.setenv("HIDREAM_COMPILE", "yes")
    ours = Settings()
    assert ours.cors_origins == ("http://a.example", "http://b.example")
    monkeypatch.setattr(os, "environ", ours.environment())
    assert Settings() == ours
    assert HidreamSettings().compile


def test_pipelines_read_the_limits_that_the_proxy_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides validate: the proxy with its settings, the Triton models with their environment."""
    monkeypatch.setenv("SD15_MAX_STEPS", "33")
    monkeypatch.setenv("SD15_MAX_CONTROL_PIXELS", "1000")
    monkeypatch.setenv("UPSCALE_MAX_PIXELS", "2000")
    monkeypatch.setenv("UPSCALE_TILE_PAD", "0")
    monkeypatch.setenv("HIDREAM_MAX_STEPS", "44")
    ours = Settings()
    sd15 = Sd15Settings.of(ours)
    assert (sd15.max_steps, sd15.max_control_pixels) == (33, 1000)
    assert (UpscaleSettings.of(ours).tile_pad, HidreamSettings.of(ours).max_steps) == (0, 44)
    monkeypatch.setattr(os, "environ", ours.environment())
    for family in (Sd15Settings, UpscaleSettings, HidreamSettings):
        assert family() == family.of(ours)


def test_family_settings_import_no_torch() -> None:
    """They are read in processes that have no use for it."""
    code = "import sys, darkroom.settings as s; s.Settings(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- values


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
        ("SD15_MAX_PIXELS", "4095"),
        ("SD15_MAX_STEPS", "0"),
        ("GENERATE_MAX_STEPS", "0"),
        ("HIDREAM_DTYPE", "int8"),
        ("LOG_LEVEL", "loud"),
        ("SUBMIT_OPERATION", "paint"),
        ("FAMILIES_PATH", "/no/such/folder"),
    ],
)
def test_wrong_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert caught.value.errors()[0]["loc"] == (name.lower(),), "the first is the one that is shown"


def test_submit_does_every_operation_that_makes_pictures_of_a_text() -> None:
    for name in ("auto", "generate", *(family.pipeline.name for family in of_operation("generate"))):
        assert Settings(submit_operation=name).submit_operation == name


# --- families


def test_families_are_found_by_their_folder() -> None:
    settings = Settings()
    assert settings.family("sd15") is Sd15Settings.of(settings)
    assert settings.family("hidream") is HidreamSettings.of(settings)
    with pytest.raises(LookupError, match="hidream, qwen_edit, sd15, sdxl, upscale; got 'x'"):
        settings.family("x")


def test_families_may_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().families == ()
    monkeypatch.setenv("FAMILIES", "sd15, upscale")
    assert Settings().families == ("sd15", "upscale")
    monkeypatch.setenv("FAMILIES", "sd15,x")
    with pytest.raises(ValidationError, match="must be of hidream, qwen_edit, sd15, sdxl, upscale; got 'x'"):
        Settings()


TINY = """
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from darkroom.family_settings import FamilySettings

class Settings(FamilySettings):
    model_config = SettingsConfigDict(env_prefix="TINY_")
    title = "Tiny"
    max_pixels: int = Field(64, ge=1, description="Largest image.")
"""
SHOW = """
import importlib
from darkroom.settings import Settings
settings = Settings()
print(settings.family("tiny").max_pixels, settings.families, settings.environment()["TINY_MAX_PIXELS"])
print(importlib.import_module("exporters.tiny").NAME, settings.family("sd15").max_steps)
"""


def test_families_path_adds_families(tmp_path: Path) -> None:
    for folder in (tmp_path / "pipelines" / "tiny", tmp_path / "exporters" / "tiny"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("NAME = 'of the folder'\n")
    (tmp_path / "pipelines" / "tiny" / "settings.py").write_text(TINY)

    def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
        given = os.environ | {"FAMILIES_PATH": str(tmp_path)} | env
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)

    result = run(SHOW, FAMILIES="tiny", TINY_MAX_PIXELS="81")
    assert result.stdout.splitlines() == ["81 ('tiny',) 81", "of the folder 150"], result.stderr
    refused = run("from darkroom.settings import Settings; Settings()", TINY_MAX_PIXELS="0")
    assert "tiny_max_pixels" in refused.stderr
    assert run("from darkroom.env_example import main; main(['--check'])").returncode == 0, "those of the checkout"


# --- old names


def test_old_names_are_read_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(OLD_LIMITS):
        monkeypatch.setenv(f"GENERATE_{name}", str(900 - number + (4096 if name == "MAX_PIXELS" else 0)))
    sd15 = Sd15Settings.of(settings := Settings())
    assert (sd15.max_pixels, sd15.max_steps, sd15.max_images) == (4996, 899, 898)
    assert (sd15.max_prompt, sd15.max_control_pixels) == (897, 896)
    assert settings.warnings() == [
        f"GENERATE_{name} is the old name of SD15_{name}; please rename it." for name in sorted(OLD_LIMITS)
    ]
    monkeypatch.setattr(os, "environ", settings.environment())
    assert Settings().warnings() == [], "a child process says nothing again"


def test_old_names_give_way_to_new_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wherever each of them stands."""
    (tmp_path / ".env").write_text("SD15_MAX_STEPS=20\nGENERATE_MAX_IMAGES=3\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    monkeypatch.setenv("GENERATE_MAX_STEPS", "30")
    settings = Settings()
    assert (Sd15Settings.of(settings).max_steps, Sd15Settings.of(settings).max_images) == (20, 3)
    assert settings.warnings() == ["GENERATE_MAX_IMAGES is the old name of SD15_MAX_IMAGES; please rename it."]


def test_variables_of_other_services_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Plates(FamilySettings):
        model_config = SettingsConfigDict(env_prefix="PLATES_", env_file=tmp_path / ".env")
        title = "Plates"
        other_names: ClassVar[Mapping[str, str]] = {"checkpoint": "PLATE_REPO_ID"}

        checkpoint: str = "usual"
        side: int = 1

    (tmp_path / ".env").write_text("PLATE_REPO_ID=file\n")
    assert Plates().checkpoint == "file"
    monkeypatch.setenv("PLATE_REPO_ID", "environment")
    assert Plates().checkpoint == "environment"
    assert Plates().environment() == {"PLATES_CHECKPOINT": "environment", "PLATES_SIDE": "1"}
    monkeypatch.setenv("PLATES_CHECKPOINT", "own")
    assert Plates().checkpoint == "own"
    monkeypatch.delenv("PLATES_CHECKPOINT")
    monkeypatch.setenv("PLATE_REPO_ID", "")
    assert Plates().checkpoint == "file", "an empty variable counts as absent"
