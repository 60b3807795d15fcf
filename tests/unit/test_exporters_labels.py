"""Several checkpoints of one family in a repository: names with a label behind them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from darkroom.pipelines.hidream import networks as hidream
from darkroom.pipelines.sd15 import networks
from darkroom.registry import all_specs
from exporters import config, listing, manifest
from exporters.checkpoints.origin import Origin
from exporters.cli import main
from exporters.config import Placement
from exporters.errors import ExportError
from exporters.files import ROOT
from exporters.hidream.command import family_tasks
from exporters.hidream.export import CheckpointSources
from exporters.manifest import FileState, SourceCheckpoint
from exporters.repository import labels_of, place, specs_of
from exporters.sd15.command import CONTROLS, base_tasks
from tests.engines import write_onnx

GPUS = Placement(gpus=(0, 1), instances=2, queue_delay_us=300)


def names(repository: Path) -> list[str]:
    return [spec.name for spec in specs_of(repository)]


def origin(folder: Path) -> Origin:
    return Origin.of(str(folder), Path.cwd(), Path)


def installed(repository: Path, name: str, *, source: str = "/data/photos", precision: str = "fp32") -> Path:
    """A model that looks exported."""
    sources = {"checkpoint": SourceCheckpoint(name=source, files={"w": FileState(size=1, mtime_ns=1, sha256=source)})}
    facts = {"exporter": "x", "weights_sha256": "0", "opset": 18, "max_error": 0.0, "error_share": 0.0, "torch": "2"}
    contents = {"model.onnx": name.encode()}
    manifest.install(repository / name / "1", contents, source=source, precision=precision, sources=sources, **facts)
    return repository / name


# --- names


def test_tasks_of_a_label_export_to_labelled_models(tmp_path: Path) -> None:
    plain = base_tasks(origin(tmp_path), tmp_path / "r", None)
    labelled = base_tasks(origin(tmp_path), tmp_path / "r", None, "photos")
    assert [task.name for task in labelled] == [f"{task.name}.photos" for task in plain]
    assert {task.folder for task in labelled} == {tmp_path / "r" / task.name / "1" for task in labelled}


def test_tasks_of_a_label_are_all_models_of_the_family(tmp_path: Path) -> None:
    sources = CheckpointSources(checkpoint=origin(tmp_path))
    tasks = family_tasks(sources, tmp_path / "r", label="dev")
    assert {task.name for task in tasks} == {f"{spec.name}.dev" for spec in hidream.specs()}


def test_control_unets_of_a_label_are_its_own(tmp_path: Path) -> None:
    spec = CONTROLS.labelled("photos")["canny"]
    task = CONTROLS.task(spec, tmp_path / "r", origin(tmp_path), origin(tmp_path), None)
    assert (task.name, task.like) == ("sd15_unet_canny.photos", networks.UNET.labelled("photos"))


# --- what a repository holds


def test_labelled_models_are_those_with_a_folder(tmp_path: Path) -> None:
    without = names(tmp_path)
    for name in ("sd15.photos", "sd15_unet.photos", "hidream.dev", "sd15_unet.Wrong", "other.photos", ".export-x"):
        (tmp_path / name).mkdir()
    assert names(tmp_path) == [*without, "hidream.dev", "sd15_unet.photos", "sd15.photos"]
    assert labels_of(tmp_path) == ("dev", "photos")


def test_labelled_models_of_a_file_are_none(tmp_path: Path) -> None:
    (tmp_path / "sd15.photos").write_text("no folder")
    assert "sd15.photos" not in names(tmp_path)
    assert names(tmp_path / "nowhere") == names(tmp_path)


# --- configs


def test_labelled_config_differs_from_the_plain_one_in_the_name_alone() -> None:
    for spec in networks.specs():
        plain, labelled = config.render(spec, GPUS), config.render(spec.labelled("photos"), GPUS)
        assert labelled == plain.replace(f'name: "{spec.name}"\n', f'name: "{spec.name}.photos"\n', 1)


def test_labelled_models_are_placed_as_those_beside_them(tmp_path: Path) -> None:
    config.write_configs(tmp_path, [networks.TEXT_ENCODER], GPUS)
    spec = networks.UNET.labelled("photos")
    place(tmp_path, spec)
    assert config.placement_of(config.config_path(tmp_path, spec).read_text(), spec) == GPUS
    place(tmp_path, networks.PIPELINE.labelled("photos"))
    assert (tmp_path / "sd15.photos" / "1" / "model.py").read_text() == config.model_code(networks.PIPELINE)


def test_labelled_control_unet_is_placed_as_its_own_unet(tmp_path: Path) -> None:
    config.write_configs(tmp_path, [networks.UNET], Placement())
    config.write_configs(tmp_path, [networks.UNET.labelled("photos")], GPUS)
    spec = CONTROLS.labelled("photos")["canny"]
    place(tmp_path, spec, networks.UNET.labelled("photos"))
    assert config.placement_of(config.config_path(tmp_path, spec).read_text(), spec) == GPUS


def test_configs_of_labelled_models_are_written_and_checked(tmp_path: Path) -> None:
    command = ["config", "--output", str(tmp_path)]
    (tmp_path / "sd15_unet.photos").mkdir()
    assert CliRunner().invoke(main, command).exit_code == 0
    assert CliRunner().invoke(main, [*command, "--check"]).exit_code == 0
    path = tmp_path / "sd15_unet.photos" / "config.pbtxt"
    assert 'name: "sd15_unet.photos"' in path.read_text()
    assert CliRunner().invoke(main, [*command, "--gpus", "0", "--model", "sd15_unet.photos"]).exit_code == 0
    assert "gpus: [ 0 ]" in path.read_text()
    assert "gpus" not in (tmp_path / "sd15_unet" / "config.pbtxt").read_text()
    assert CliRunner().invoke(main, [*command, "--check"]).exit_code == 1


def test_config_names_the_models_that_a_repository_has(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["config", "--output", str(tmp_path), "--model", "sd15_unet.photos"])
    assert result.exit_code == 2
    sentence = result.output.splitlines()[-1]
    assert all(words in sentence for words in ("--model", "'sd15_unet.photos' is no such model", " sd15_unet, "))


# --- control UNets


def test_control_unets_of_another_label_are_left_alone(tmp_path: Path) -> None:
    for label, base in (("", "/data/demo"), (".photos", "/data/photos")):
        installed(tmp_path, f"sd15_unet{label}", source=base)
        installed(tmp_path, f"sd15_unet_canny{label}", source=base)
    installed(tmp_path, "sd15_unet.photos", source="/data/other")
    assert CONTROLS.withdraw_stale(tmp_path) == set()
    assert CONTROLS.withdraw_stale(tmp_path, "photos") == {"sd15_unet_canny.photos"}
    CONTROLS.prune(tmp_path, "photos")
    assert not (tmp_path / "sd15_unet_canny.photos").exists()
    assert (tmp_path / "sd15_unet_canny" / "1" / "model.onnx").exists()


def test_control_unet_of_a_label_needs_the_base_of_that_label(tmp_path: Path) -> None:
    installed(tmp_path, "sd15_unet.photos", source=str(tmp_path / "photos"))
    (tmp_path / "other").mkdir()
    arguments = ["--as", "photos", "--checkpoint", str(tmp_path / "other"), "--output", str(tmp_path)]
    with pytest.raises(ExportError, match=r"sd15_unet\.photos in .* is of another checkpoint, .*photos; run first: "):
        CliRunner().invoke(main, ["sd15-controlnet", *arguments], catch_exceptions=False)


# --- TensorRT


def test_engine_of_a_labelled_network_is_planned(tmp_path: Path) -> None:
    for name in ("sd15_unet", "sd15_unet.photos"):
        write_onnx(networks.UNET, tmp_path / name / "1")
    plain, labelled = (
        CliRunner().invoke(main, ["tensorrt", "--dry-run", "--model", name, "--output", str(tmp_path)])
        for name in ("sd15_unet", "sd15_unet.photos")
    )
    assert labelled.exit_code == 0, labelled.exception
    assert labelled.output == plain.output.replace("sd15_unet:", "sd15_unet.photos:")


# --- what ./start.sh prepares


def test_prepare_writes_configs_of_labelled_models_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, which this test only claims."""
    monkeypatch.setattr("darkroom.devices.gpu_names", lambda: ("A", "B"))
    monkeypatch.setattr("exporters.tasks.run_task", lambda task, **_: None)
    monkeypatch.setenv("STATE_DIR", str(tmp_path))
    monkeypatch.setenv("NUM_GPUS_TO_USE", "2")
    monkeypatch.setenv("HIDREAM_DEVICES", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    repository = tmp_path / "model_repository"
    for name in ("sd15_unet.photos", "hidream_transformer.dev"):
        installed(repository, name)
    assert CliRunner().invoke(main, ["prepare"]).exit_code == 0
    assert "gpus: [ 0, 1 ]" in (repository / "sd15_unet.photos" / "config.pbtxt").read_text()
    assert "gpus: [ 1 ]" in (repository / "hidream_transformer.dev" / "config.pbtxt").read_text()
    assert (repository / "sd15_unet.photos" / "1" / "model.onnx").read_bytes() == b"sd15_unet.photos", "left alone"


def test_prepare_rewrites_code_of_an_older_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a repository whose configs are somebody else's. What is not there does not come."""
    monkeypatch.setattr("exporters.tasks.run_task", lambda task, **_: None)
    monkeypatch.setenv("MODEL_REPOSITORY", str(tmp_path))
    code = tmp_path / "sd15" / "1" / "model.py"
    code.parent.mkdir(parents=True)
    code.write_text("class TritonPythonModel: ...\n")
    config = tmp_path / "sd15" / "config.pbtxt"
    config.write_text("# ours\n")
    assert CliRunner().invoke(main, ["prepare"]).exit_code == 0
    assert "Sd15Model" in code.read_text()
    assert config.read_text() == "# ours\n"
    assert not (tmp_path / "upscale").exists()


# --- python -m exporters list and remove


def test_list_shows_family_label_checkpoint_precision_and_size(tmp_path: Path) -> None:
    empty = CliRunner().invoke(main, ["list", "--output", str(tmp_path)]).output
    assert empty == f"Nothing is exported in {tmp_path}.\n"
    installed(tmp_path, "sd15_unet", source=str(ROOT / "checkpoints" / "demo-sd15"))
    installed(tmp_path, "sd15_unet.photos", source="/data/photos", precision="fp16")
    installed(tmp_path, "sd15_text_encoder.photos", source="/data/photos", precision="fp16")
    found = {entry.name: entry for entry in listing.exported(tmp_path)}
    assert set(found) == {"sd15", "sd15.photos"}
    photos = found["sd15.photos"]
    assert (photos.checkpoint, photos.precision) == ("/data/photos", "fp16")
    assert photos.size == len("sd15_unet.photos") + len("sd15_text_encoder.photos")
    output = CliRunner().invoke(main, ["list", "--output", str(tmp_path)]).output
    lines = [line.split() for line in output.splitlines()]
    assert ["sd15", "checkpoints/demo-sd15", "fp32", "9", "bytes"] in lines
    assert ["sd15", "photos", "/data/photos", "fp16", "40", "bytes"] in lines


def test_remove_takes_the_models_of_a_label(tmp_path: Path) -> None:
    for name in ("sd15_unet", "sd15_unet.photos", "sd15.photos", "hidream_t5.photos"):
        installed(tmp_path, name)
    result = CliRunner().invoke(main, ["remove", "sd15.photos", "--output", str(tmp_path)])
    assert result.output == "sd15.photos: 2 models removed.\n"
    assert {path.name for path in tmp_path.iterdir()} == {"sd15_unet", "hidream_t5.photos"}


@pytest.mark.parametrize("name", ["sd15", "sd15.", "sd15.gone", "nothing.photos", "../sd15.photos", "sd15.a/b"])
def test_remove_takes_nothing_else(tmp_path: Path, name: str) -> None:
    installed(tmp_path, "sd15_unet.photos")
    with pytest.raises(ExportError, match="see: python -m exporters list"):
        CliRunner().invoke(main, ["remove", name, "--output", str(tmp_path)], catch_exceptions=False)
    assert (tmp_path / "sd15_unet.photos").is_dir()


def test_every_model_may_have_a_label() -> None:
    for spec in all_specs():
        assert config.render(spec.labelled("photos"), Placement()).count(".photos") == 1
