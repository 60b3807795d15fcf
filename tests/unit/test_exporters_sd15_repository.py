"""What the SD 1.5 exporter keeps in order: what is up to date, failed exports, control UNets, ./start.sh."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.checkpoint import Sd15CheckpointInfo
from darkroom.registry import all_specs
from darkroom.settings import Settings
from exporters import config, manifest, onnx_export
from exporters.checkpoints.origin import Origin
from exporters.cli import main
from exporters.config import Placement
from exporters.errors import ExportError
from exporters.export import ModelExport, staging, up_to_date
from exporters.files import ROOT
from exporters.repository import place, specs_of
from exporters.sd15 import command, export, pipeline
from exporters.sd15.command import CONTROLS, base_tasks
from exporters.sd15.weights import read_checkpoint, read_controlnet
from exporters.tasks import run_tasks
from tests.hub import Hub, serving
from tests.sd15_checkpoints import TEXT, UNET, VAE, edit_json, write_checkpoint


def fetch(name: str) -> Path:
    raise ExportError(f"{name} is fetched")


# --- what is up to date


def installed(repository: Path, checkpoint: Origin, controlnet: Origin | None = None) -> None:
    """A repository that looks exported from these checkpoints by the present exporter."""
    read = read_checkpoint(checkpoint.root)
    facts = {"precision": "fp32", "source": checkpoint.name, "weights_sha256": "0", "opset": 18}
    facts |= {"max_error": 0.0, "error_share": 0.0, "torch": "2"}
    parts = {"sd15_text_encoder": "text_encoder", "sd15_unet": "unet", "sd15_unet_canny": "unet"}
    parts |= {"sd15_vae_encoder": "vae", "sd15_vae_decoder": "vae"}
    for name, part in parts.items():
        sources = {"checkpoint": checkpoint.source(read.component(part).files)}
        if name == "sd15_unet_canny":
            if controlnet is None:
                continue
            sources["controlnet"] = controlnet.source(read_controlnet(controlnet.root, read.unet).files)
        contents = {"model.onnx": name.encode()}
        exporter = export.current_hash()
        manifest.install(repository / name / "1", contents, exporter=exporter, sources=sources, **facts)
    sources = {"checkpoint": checkpoint.source((*read.unet.files, *read.vae.files))}
    contents = {"pipeline.json": b"{}", "tokenizer.json": b"{}"}
    exporter = pipeline.current_hash()
    manifest.install(repository / "sd15" / "1", contents, exporter=exporter, sources=sources, **facts)


def origin(folder: Path) -> Origin:
    return Origin.of(str(folder), Path.cwd(), fetch)


def current(repository: Path, checkpoint: Origin, **changes: Any) -> bool:
    wanted = ModelExport(spec=networks.UNET, repository=repository, checkpoint=checkpoint, **changes)
    return up_to_date(wanted, export.current_hash()) is not None


def test_a_second_run_is_quick_and_imports_no_torch(tiny: Path, canny: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    installed(repository, origin(tiny), origin(canny))
    program = (
        "import sys\n"
        "from exporters.cli import run\n"
        f"arguments = ['sd15', '--checkpoint', {str(tiny)!r}, '--output', {str(repository)!r}]\n"
        "import time; began = time.perf_counter()\n"
        "try: run(arguments)\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'onnx', 'onnxruntime', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert time.perf_counter() - began < 3\n"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 6
    assert all(line.endswith(": up to date (fp32)") for line in done.stdout.splitlines())


def test_weights_decide_what_is_up_to_date(tiny: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    installed(repository, origin(tiny))
    assert current(repository, origin(tiny))
    assert current(repository, origin(tiny), precision="fp32")
    assert not current(repository, origin(tiny), precision="fp16")

    moved = Path(shutil.copytree(tiny, tmp_path / "moved"))
    assert current(repository, origin(moved)), "the same content in another folder"

    os.utime(moved / UNET, ns=(1, 1))
    assert current(repository, origin(moved)), "the same content at another time"

    (moved / UNET).write_bytes((moved / UNET).read_bytes()[:-1] + b"x")
    assert not current(repository, origin(moved))

    shutil.rmtree(tiny)
    assert current(repository, Origin(name=str(tiny.resolve()), fetch=fetch)), "a checkpoint may go once it is exported"


def test_another_exporter_is_not_up_to_date(tiny: Path, tmp_path: Path) -> None:
    installed(tmp_path / "models", origin(tiny))
    wanted = ModelExport(spec=networks.UNET, repository=tmp_path / "models", checkpoint=origin(tiny))
    assert up_to_date(wanted, "another") is None


def test_a_hub_id_is_not_fetched_to_know(tiny: Path, tmp_path: Path) -> None:
    named = Origin(name="someone/model", fetch=lambda name: tiny)
    installed(tmp_path / "models", named)
    assert current(tmp_path / "models", Origin(name="someone/model", fetch=fetch))
    assert not current(tmp_path / "models", Origin(name="someone/other", fetch=fetch))
    with pytest.raises(ExportError, match="someone/model is fetched"):
        _ = Origin(name="someone/model", fetch=fetch).root


def test_a_checkpoint_of_the_hub_is_fetched_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a hub to pipeline.json; what is up to date needs no hub."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    files = {str(path.relative_to(tiny)): path.read_bytes() for path in tiny.rglob("*") if path.is_file()}
    files["image_encoder/model.safetensors"] = b"not asked for"
    repository, cache = tmp_path / "models", tmp_path / "cache"
    with serving(Hub("someone/tiny", files, large={UNET, VAE, TEXT})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        named = command.origin("someone/tiny", tmp_path, cache)
        run_tasks(base_tasks(named, repository, None)[-1:])
    assert Sd15CheckpointInfo.read(repository / "sd15" / "1").name == "someone/tiny"
    assert not list(cache.rglob("image_encoder"))

    again = command.origin("someone/tiny", tmp_path, cache)
    assert base_tasks(again, repository, None)[-1].up_to_date() is not None


def test_a_checkpoint_may_ask_for_its_own_guidance_scale(tiny: Path, tmp_path: Path) -> None:
    checkpoint, repository = tmp_path / "checkpoint", tmp_path / "models"
    shutil.copytree(tiny, checkpoint)
    (checkpoint / "generation_config.json").write_text('{"guidance_scale": 3}')
    task = base_tasks(origin(checkpoint), repository, None)[-1]
    run_tasks([task])
    assert Sd15CheckpointInfo.read(repository / "sd15" / "1").guidance_scale == 3
    assert task.up_to_date() is not None
    for wrong in ('"high"', "51", "true"):
        (checkpoint / "generation_config.json").write_text(f'{{"guidance_scale": {wrong}}}')
        task = base_tasks(origin(checkpoint), repository, None)[-1]
        with pytest.raises(ExportError, match=r"generation_config.json: guidance_scale must be a number from 0 to 50"):
            run_tasks([task])


def test_missing_folder_is_named(tmp_path: Path) -> None:
    gone = Origin(name=str(tmp_path / "gone"), fetch=fetch)
    with pytest.raises(ExportError, match="gone is not there"):
        _ = gone.root


# --- a failed export


def test_failed_export_leaves_no_folder_that_triton_would_trip_over(tiny: Path, tmp_path: Path) -> None:
    wanted = ModelExport(spec=networks.UNET, repository=tmp_path / "models", checkpoint=origin(tiny))

    def fail() -> None:
        with staging(wanted) as staged:
            (staged / "model.onnx").write_bytes(b"half")
            raise ExportError("stopped")

    with pytest.raises(ExportError, match="stopped"):
        fail()
    assert not (tmp_path / "models" / "sd15_unet").exists()


def test_leftovers_of_a_killed_export_go(tiny: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    installed(repository, origin(tiny))
    left = repository / "sd15_unet" / ".export-left"
    left.mkdir()
    (left / "model.onnx.data").write_bytes(b"half")
    with staging(ModelExport(spec=networks.UNET, repository=repository, checkpoint=origin(tiny))):
        assert not left.exists()
    assert [path.name for path in (repository / "sd15_unet").iterdir()] == ["1"]


def test_a_repository_that_cannot_be_written_is_named(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ExportError, match=r"sd15_text_encoder could not be exported to .*models.*: Not a directory\."):
        run_tasks(base_tasks(origin(tiny), tmp_path / "models", None))


# --- UNets with a ControlNet


def test_control_unet_of_another_base_is_withdrawn(tiny: Path, canny: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    installed(repository, origin(tiny), origin(canny))
    assert CONTROLS.withdraw_stale(repository) == set()
    other = write_checkpoint(tmp_path / "other", seed=3)
    kept = (repository / "sd15_unet_canny").rename(tmp_path / "kept")
    installed(repository, origin(other))
    kept.rename(repository / "sd15_unet_canny")

    assert CONTROLS.withdraw_stale(repository) == {"sd15_unet_canny"}

    assert not (repository / "sd15_unet_canny" / "1").exists()
    CONTROLS.prune(repository)
    assert not (repository / "sd15_unet_canny").exists()
    names = {spec.name for spec in specs_of(repository)}
    assert {spec.name for spec in all_specs() if not spec.on_demand} == names


def test_fresh_repository_leaves_out_only_what_comes_with_its_export(tmp_path: Path) -> None:
    assert [spec.name for spec in specs_of(tmp_path)] == [s.name for s in all_specs() if not s.on_demand]


def test_control_unet_is_placed_beside_the_plain_one(tmp_path: Path) -> None:
    placement = Placement(gpus=(0, 1), queue_delay_us=500)
    config.write_configs(tmp_path, all_specs(), placement)
    spec = networks.CONTROL_UNETS["canny"]
    path = config.config_path(tmp_path, spec)
    before = path.read_text()
    path.unlink()

    place(tmp_path, spec, networks.UNET)

    assert path.read_text() == before


# --- what ./start.sh prepares


def prepare(monkeypatch: pytest.MonkeyPatch, repository: Path, **settings: str) -> list[str]:
    """The lines that the family's part of `python -m exporters prepare` prints."""
    monkeypatch.setenv("MODEL_REPOSITORY", str(repository))
    monkeypatch.setenv("NUM_GPUS_TO_USE", "0")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with redirect_stdout(io.StringIO()) as printed:
        command.prepare(Settings(), repository)
    return printed.getvalue().splitlines()


def test_prepare_says_that_text_to_image_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.sd15.command.ROOT", tmp_path)
    monkeypatch.setattr("exporters.sd15.command.DEMO", tmp_path / "checkpoints" / "demo-sd15")
    monkeypatch.delenv("SD15_CHECKPOINT", raising=False)
    lines = prepare(monkeypatch, tmp_path / "models")
    assert lines == ["Text to image is left out: checkpoints/demo-sd15 is not there."]


def test_prepare_is_silent_when_all_is_up_to_date(
    tiny: Path, canny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models"
    installed(repository, origin(tiny), origin(canny))
    settings = {"SD15_CHECKPOINT": str(tiny), "SD15_CONTROLNETS": f"canny={canny}"}
    assert prepare(monkeypatch, repository, **settings) == []


def test_prepare_leaves_a_checkpoint_of_the_users_own(
    tiny: Path, canny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, demo = tmp_path / "models", tmp_path / "checkpoints" / "demo-sd15"
    shutil.copytree(tiny, demo)
    edit_json(demo / "scheduler" / "scheduler_config.json", beta_end=0.02)
    monkeypatch.setattr("exporters.sd15.command.DEMO", demo)
    installed(repository, origin(tiny), origin(canny))
    asked: list[str] = []
    monkeypatch.setattr("exporters.sd15.command.base_tasks", lambda base, *_: asked.append(base.name) or [])
    assert prepare(monkeypatch, repository, SD15_CHECKPOINT=str(demo), SD15_CONTROLNETS="") == []
    assert asked == []
    prepare(monkeypatch, repository, SD15_CHECKPOINT=str(tiny), SD15_CONTROLNETS="")
    assert asked == [str(tiny)]
    (moved := tmp_path / "elsewhere" / "checkpoints").mkdir(parents=True)
    shutil.copytree(demo, moved / "demo-sd15")
    installed(repository, origin(moved / "demo-sd15"))
    prepare(monkeypatch, repository, SD15_CHECKPOINT=str(demo), SD15_CONTROLNETS="")
    assert asked == [str(tiny), str(demo)], "a demo of another place is the demo"


def test_prepare_leaves_out_a_controlnet_that_does_not_fit(
    tiny: Path, canny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models"
    installed(repository, origin(tiny))
    edit_json(canny / "config.json", block_out_channels=[320, 640, 1280])
    settings = {"SD15_CHECKPOINT": str(tiny), "SD15_CONTROLNETS": f"canny={canny}"}

    lines = prepare(monkeypatch, repository, **settings)

    assert len(lines) == 1
    assert lines[0].startswith("sd15_unet_canny: left out. The ControlNet tiny-canny does not fit the UNet of tiny")
    assert not (repository / "sd15_unet_canny").exists()


@pytest.mark.parametrize("value", ["canny", "canny=", "=x", "waves=x"])
def test_settings_name_what_is_wrong_with_controlnets(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydantic import ValidationError

    from darkroom.settings import Settings

    monkeypatch.setenv("SD15_CONTROLNETS", value)
    with pytest.raises(ValidationError, match="must be CONTROL=CHECKPOINT with CONTROL of canny"):
        Settings()


# --- command line


@pytest.mark.parametrize("command", ["sd15", "sd15-controlnet"])
def test_help_has_examples(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert f"python -m exporters {command}" in result.output
    assert "hub id" in result.output


def test_unknown_control_is_named() -> None:
    result = CliRunner().invoke(main, ["sd15-controlnet", "--control", "waves"])
    assert result.exit_code == 2
    assert "'waves' is not 'canny'" in result.output


def test_names_of_files_agree() -> None:
    assert {onnx_export.MODEL_NAME} == {file for spec in networks.networks() for file in spec.files}
