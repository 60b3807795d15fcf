"""Families that can be exported: found by their folders, chosen by settings, recognised by checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import exporters
from darkroom.pipelines.upscale.networks import NETWORKS
from exporters import prepare, registry
from exporters.checkpoints.contents import Contents
from exporters.cli import main
from exporters.errors import ExportError
from exporters.files import ROOT

FAMILIES = {"hidream", "qwen_edit", "sd15", "sdxl", "upscale"}
FAMILY_FOLDERS = tuple(f"exporters/{name}/" for name in FAMILIES)


def folder_of(class_name: str | None, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": class_name} if class_name else {}))
    return folder


def file_of(names: list[str], path: Path) -> Path:
    save_file({name: np.zeros(1, np.float32) for name in names}, path)
    return path


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """The family's commands that `export` calls, with their arguments; they are not run."""
    calls: list[tuple[str, list[str]]] = []

    def note(command: Any, arguments: list[str], **_: Any) -> None:
        calls.append((command.name, arguments))

    for family in registry.families().values():
        monkeypatch.setattr(family.commands[0], "main", lambda a, c=family.commands[0], **_: note(c, a))
    return calls


# --- discovery


def test_families_are_found_by_their_folders() -> None:
    assert set(registry.families()) == FAMILIES
    assert list(registry.families()) == sorted(registry.families())


def test_every_family_has_its_commands_in_the_program() -> None:
    for family in registry.families().values():
        for command in family.commands:
            assert main.commands[str(command.name)] is command


def test_family_names_stand_in_the_folders_of_the_families_alone() -> None:
    names = ("sd15", "hidream", "sdxl", "qwen_edit")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "exporters").rglob("*.py"))
        if not str(path.relative_to(ROOT)).startswith(FAMILY_FOLDERS)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if any(name in line.lower() for name in names) and "docs/decisions" not in line
    ]
    assert found == []


def test_families_import_nothing_of_each_other() -> None:
    for name in FAMILIES:
        for path in (ROOT / "exporters" / name).rglob("*.py"):
            for other in FAMILIES - {name}:
                assert f"exporters.{other}" not in path.read_text(), path


def test_family_in_another_folder_is_a_command_and_is_prepared(tmp_path: Path) -> None:
    """In a process of its own, as the families are found once."""
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").write_text("")
    (tmp_path / "toy" / "command.py").write_text(
        textwrap.dedent("""
            import click

            KIND, CLASSES = "Toy", ("ToyPipeline",)

            @click.command()
            @click.option("--checkpoint", required=True)
            def toy(checkpoint): click.echo(f"toy exports {checkpoint}")

            COMMANDS = (toy,)

            def prepare(settings, repository): click.echo(f"toy is prepared in {repository.name}")
        """)
    )
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "model_index.json").write_text('{"_class_name": "ToyPipeline"}')
    program = (
        "import sys, exporters; exporters.__path__.append(sys.argv[1])\n"
        "from exporters.cli import main\n"
        "main(sys.argv[2:], prog_name='exporters')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]

    def run(*arguments: str) -> str:
        environment = {"PATH": ""}
        done = subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert "\n  toy\n" in run("--help")
    photos = tmp_path / "photos"
    assert run("export", str(photos)).splitlines() == [
        "photos is a Toy checkpoint (ToyPipeline): exporting as toy",
        f"toy exports {photos}",
    ]


# --- the setting FAMILIES


def test_families_setting_chooses_what_prepare_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[str] = []
    settings = SimpleNamespace(
        families=("upscale",), model_repository=tmp_path, state_dir=tmp_path / "state", gpus=(), num_gpus_to_use=0
    )
    chosen = {
        name: registry.Family(**{**vars(family), "prepare": lambda settings, repository, n=name: prepared.append(n)})
        for name, family in registry.families().items()
    }
    monkeypatch.setattr(prepare, "Settings", lambda: settings)
    monkeypatch.setattr(registry, "families", lambda: chosen)
    assert CliRunner().invoke(main, ["prepare"]).exit_code == 0
    assert prepared == ["upscale"]
    written = {path.parent.name for path in tmp_path.glob("*/config.pbtxt")}
    assert written == {"upscale", *(network.model_name for network in NETWORKS)}, "and no config of another family"
    settings.families = ()
    assert CliRunner().invoke(main, ["prepare"]).exit_code == 0
    assert prepared[1:] == sorted(FAMILIES)


def test_prepare_goes_on_with_other_families_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[str] = []

    def fail(settings: Any, repository: Path, name: str) -> None:
        prepared.append(name)
        if name != "upscale":
            raise ExportError(f"{name} has no weights")

    chosen = {
        name: registry.Family(**{**vars(family), "prepare": lambda s, r, n=name: fail(s, r, n)})
        for name, family in registry.families().items()
    }
    monkeypatch.setattr(registry, "families", lambda: chosen)
    monkeypatch.setenv("MODEL_REPOSITORY", str(tmp_path))
    result = CliRunner().invoke(main, ["prepare"])
    assert isinstance(result.exception, ExportError)
    assert str(result.exception) == "hidream has no weights"
    assert "Error: sd15 has no weights" in result.stderr
    assert prepared == sorted(FAMILIES)


# --- python -m exporters export


def test_export_finds_the_family_of_a_folder(tmp_path: Path, exported: list[tuple[str, list[str]]]) -> None:
    photos = folder_of("StableDiffusionPipeline", tmp_path)
    result = CliRunner().invoke(main, ["export", str(photos), "--as", "photos"])
    assert result.output == (
        "photos is a Stable Diffusion 1.5 checkpoint (StableDiffusionPipeline): exporting as sd15.photos\n"
    )
    assert exported == [("sd15", ["--checkpoint", str(photos), "--as", "photos"])]


def test_export_hands_the_familys_own_options_on(tmp_path: Path, exported: list[tuple[str, list[str]]]) -> None:
    photos = folder_of("HiDreamImagePipeline", tmp_path)
    options = ["--variant", "dev", "--force", "--precision", "fp16", "--output", str(tmp_path / "models")]
    result = CliRunner().invoke(main, ["export", str(photos), *options])
    assert result.exit_code == 0, result.output
    ((name, arguments),) = exported
    assert (name, arguments[:2]) == ("hidream", ["--checkpoint", str(photos)])
    given = set(zip(arguments[2:], [*arguments[3:], ""], strict=True))
    assert {("--variant", "dev"), ("--precision", "fp16"), ("--output", str(tmp_path / "models"))} <= given
    assert "--force" in arguments
    assert "--cache" not in arguments, "what was not given is left to the family's command"


def test_export_finds_the_family_of_a_single_file(tmp_path: Path, exported: list[tuple[str, list[str]]]) -> None:
    names = ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight"]
    file = file_of([*names, "cond_stage_model.transformer.x"], tmp_path / "photos.safetensors")
    result = CliRunner().invoke(main, ["export", str(file)])
    assert result.output == "photos is a Stable Diffusion 1.5 checkpoint (a single file): exporting as sd15\n"
    assert exported == [("sd15", ["--checkpoint", str(file)])]


def test_export_finds_a_base_of_two_text_encoders(tmp_path: Path, exported: list[tuple[str, list[str]]]) -> None:
    names = ["model.diffusion_model.x", "conditioner.embedders.0.transformer.x", "conditioner.embedders.1.model.x"]
    file = file_of(names, tmp_path / "photos.safetensors")
    result = CliRunner().invoke(main, ["export", str(file), "--as", "xl"])
    assert result.output == "photos is a Stable Diffusion XL checkpoint (a single file): exporting as sdxl.xl\n"
    assert exported == [("sdxl", ["--checkpoint", str(file), "--as", "xl"])]


def test_export_says_how_a_refiner_is_exported(tmp_path: Path, exported: list[tuple[str, list[str]]]) -> None:
    file = file_of(["model.diffusion_model.x", "conditioner.embedders.0.model.x"], tmp_path / "fine.safetensors")
    with pytest.raises(ExportError, match=f"fine is a refiner, .* exporters sdxl --checkpoint BASE --refiner {file}"):
        CliRunner().invoke(main, ["export", str(file)], catch_exceptions=False)
    assert exported == []


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.label)
def test_export_finds_upscalers(tmp_path: Path, exported: list[tuple[str, list[str]]], network: Any) -> None:
    """By the names that the architectures really have."""
    from exporters.upscale.architectures import build

    names = list(build(network.architecture, network.blocks).state_dict())
    file = file_of(names, tmp_path / "upscaler.safetensors")
    assert CliRunner().invoke(main, ["export", str(file)]).exit_code == 0
    ((_, arguments),) = exported
    same = [n.label for n in NETWORKS if (n.architecture, n.blocks) == (network.architecture, network.blocks)]
    assert arguments == [*(word for label in same for word in ("--model", label)), "--weights", str(file)]


def test_export_refuses_an_unknown_class(tmp_path: Path, exported: list[tuple[str, list[str]]]) -> None:
    result = CliRunner().invoke(main, ["export", str(folder_of("FluxPipeline", tmp_path))])
    assert isinstance(result.exception, ExportError)
    assert str(result.exception) == (
        "photos is a checkpoint of an unknown kind: FluxPipeline. Known are HiDream-I1 (HiDreamImagePipeline), "
        "Qwen-Image-Edit (QwenImageEditPipeline, QwenImageEditPlusPipeline), Stable Diffusion 1.5 "
        "(StableDiffusionPipeline, StableDiffusionInpaintPipeline), Stable Diffusion XL "
        "(StableDiffusionXLPipeline, StableDiffusionXLInpaintPipeline)."
    )
    assert exported == []


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lora_unet_down.weight"], "a LoRA"),
        (["cond_stage_model.model.x", "model.diffusion_model.input_blocks.0.0.weight"], "Stable Diffusion 2"),
        (["conditioner.embedders.0.x", "conditioner.embedders.1.x"], "Stable Diffusion XL"),
        (["something.else"], "a single file"),
    ],
)
def test_export_refuses_an_unknown_file(tmp_path: Path, names: list[str], words: str) -> None:
    file = file_of(names, tmp_path / "thing.safetensors")
    with pytest.raises(ExportError, match=f"thing is a checkpoint of an unknown kind: {words}. Known are HiDream-I1"):
        CliRunner().invoke(main, ["export", str(file)], catch_exceptions=False)


def test_export_names_a_controlnet_that_lies_alone(tmp_path: Path) -> None:
    (tmp_path / "canny").mkdir()
    (tmp_path / "canny" / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    with pytest.raises(ExportError, match="canny is a checkpoint of an unknown kind: ControlNetModel"):
        CliRunner().invoke(main, ["export", str(tmp_path / "canny")], catch_exceptions=False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("photos.ckpt", "pickles .* can run code"),
        ("gone.safetensors", r"gone\.safetensors is not there"),
        ("broken.safetensors", "cannot be read as safetensors"),
    ],
)
def test_export_refuses_files_that_it_cannot_read(tmp_path: Path, name: str, words: str) -> None:
    if name != "gone.safetensors":
        (tmp_path / name).write_bytes(b"x" * 100)
    with pytest.raises(ExportError, match=words):
        CliRunner().invoke(main, ["export", str(tmp_path / name)], catch_exceptions=False)


def test_export_refuses_a_label_that_is_none(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["export", str(folder_of("StableDiffusionPipeline", tmp_path)), "--as", "My.1"])
    assert result.exit_code == 2
    assert "must be 1 to 40 of a to z, 0 to 9, _ and -" in " ".join(result.output.split())


def test_a_checkpoint_without_a_class_is_of_no_family() -> None:
    with pytest.raises(ExportError, match="photos is a checkpoint of an unknown kind: no class"):
        registry.family_of(Contents(title="photos"))


def test_families_are_looked_for_in_every_folder_of_the_package() -> None:
    assert str(ROOT / "exporters") in [str(Path(path).resolve()) for path in exporters.__path__]
