"""Configs for GPUs: one instance per GPU, and TensorRT engines in place of ONNX models. No GPU is needed to render."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from darkroom.pipelines.sd15 import networks as sd15
from darkroom.registry import all_specs
from darkroom.serving.networks import ModelSpec
from darkroom.settings import Settings
from exporters import config
from exporters.cli import main, run
from exporters.config import Placement
from exporters.files import ROOT
from exporters.tensorrt.engines import Served
from tests.engines import A100, H100, install, write_onnx

SPECS = [spec for spec in all_specs() if not spec.on_demand]
NETWORKS = [spec for spec in SPECS if spec.backend != "python"]
PIPELINES = [spec for spec in SPECS if spec.backend == "python"]
KIND_GPU = model_config_pb2.ModelInstanceGroup.KIND_GPU
KIND_CPU = model_config_pb2.ModelInstanceGroup.KIND_CPU


def read(repository: Path, spec: ModelSpec) -> model_config_pb2.ModelConfig:
    """A written config, read by Triton's own schema: an unknown field or a wrong type fails."""
    text = config.config_path(repository, spec).read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(["config", *arguments])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever machine this is, none is seen."""
    monkeypatch.setattr("exporters.tensorrt.engines.visible_gpus", tuple)


# --- several GPUs


def test_four_gpus_get_an_instance_each_of_every_network(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["config", "--gpus", "0,1,2,3", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output

    assert {"sd15_unet", "sd15_vae_decoder", "sd15_text_encoder"} <= {s.name for s in NETWORKS}
    for spec in NETWORKS:
        group = read(tmp_path, spec).instance_group
        assert [(g.kind, list(g.gpus), g.count) for g in group] == [(KIND_GPU, [0, 1, 2, 3], 1)], spec.name
        assert read(tmp_path, spec).max_batch_size == spec.max_batch_size
    for spec in PIPELINES:
        assert [(g.kind, g.count) for g in read(tmp_path, spec).instance_group] == [(KIND_CPU, 1)], spec.name


@pytest.mark.parametrize(
    ("wanted", "visible", "gpus"),
    [
        ("", None, (0, 1, 2, 3)),
        ("3", None, (0, 1, 2)),
        ("9", None, (0, 1, 2, 3)),
        ("0", None, ()),
        ("2", "1,3,0", (0, 1)),
        ("", "2", (0,)),
        ("", "", ()),
        ("", "-1", ()),
        ("", "NoDevFiles", ()),
        ("", "0,-1,1", (0,)),
        ("", "7,0", ()),
        ("", "GPU-9eb0c0de,GPU-1bc0c0de", (0, 1)),
    ],
)
def test_the_number_of_gpus_to_use_is_honoured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, visible: str | None, gpus: tuple[int, ...]
) -> None:
    """Four GPUs, which this test only claims. CUDA_VISIBLE_DEVICES hides some, and renumbers the others from 0."""
    monkeypatch.setattr("darkroom.devices.gpu_names", lambda: ("A", "B", "C", "D"))
    monkeypatch.setenv("NUM_GPUS_TO_USE", wanted)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    settings = Settings(_env_file=None)

    assert settings.gpus == gpus
    config.write_configs(tmp_path, SPECS, Placement(gpus=settings.gpus))
    for spec in NETWORKS:
        (group,) = read(tmp_path, spec).instance_group
        assert (group.kind, tuple(group.gpus)) == (KIND_GPU if gpus else KIND_CPU, gpus), spec.name


# --- engines


def test_engines_take_the_place_of_models(tmp_path: Path, no_gpu: None) -> None:
    for spec in NETWORKS:
        install(spec, tmp_path, max_batch=spec.max_batch_size)
    command = ["config", "--engine", "tensorrt", "--gpus", "0,1", "--queue-delay-us", "500", "--output", str(tmp_path)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output

    for spec in NETWORKS:
        model = read(tmp_path, spec)
        assert (model.platform, model.backend) == ("tensorrt_plan", "tensorrt")
        assert model.default_model_filename == "model_fp16_sm90_trt10.13.plan"
        assert (tmp_path / spec.name / "1" / model.default_model_filename).is_file()
        assert dict(model.cc_model_filenames) == {}
        assert model.max_batch_size == spec.max_batch_size
        (group,) = model.instance_group
        assert (group.kind, list(group.gpus), group.count) == (KIND_GPU, [0, 1], 1)
        assert model.dynamic_batching.max_queue_delay_microseconds == 500
        assert dict(model.parameters) == {}
        if not spec.tensors_from_graph:
            assert [t.name for t in model.input] == [t.name for t in spec.inputs]
            assert [t.name for t in model.output] == [t.name for t in spec.outputs]
    assert list(read(tmp_path, sd15.UNET).instance_group[0].profile) == ["0", "1"]
    assert list(read(tmp_path, sd15.TEXT_ENCODER).instance_group[0].profile) == []
    for spec in PIPELINES:
        assert read(tmp_path, spec).backend == "python"
    assert CliRunner().invoke(main, [*command, "--check"]).exit_code == 0


def test_single_networks_can_have_an_engine(tmp_path: Path, no_gpu: None) -> None:
    assert CliRunner().invoke(main, ["config", "--gpus", "0", "--output", str(tmp_path)]).exit_code == 0
    install(sd15.UNET, tmp_path, max_batch=16)
    command = ["config", "--engine", "tensorrt", "--gpus", "0", "--model", "sd15_unet", "--output", str(tmp_path)]

    result = CliRunner().invoke(main, command)

    assert result.output == "sd15_unet: config.pbtxt written\n1 configs, 1 changed.\n"
    assert read(tmp_path, sd15.UNET).backend == "tensorrt"
    assert read(tmp_path, sd15.VAE_DECODER).backend == "onnxruntime"


def test_gpus_of_two_kinds_load_an_engine_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.tensorrt.engines.visible_gpus", lambda: (H100, A100))
    install(sd15.UNET, tmp_path, gpu=H100, max_batch=16)
    install(sd15.UNET, tmp_path, gpu=A100, max_batch=4)
    command = ["config", "--engine", "tensorrt", "--model", "sd15_unet", "--output", str(tmp_path), "--gpus"]

    assert CliRunner().invoke(main, [*command, "0,1"]).exit_code == 0
    model = read(tmp_path, sd15.UNET)
    assert dict(model.cc_model_filenames) == {
        "8.0": "model_fp16_sm80_trt10.13.plan",
        "9.0": "model_fp16_sm90_trt10.13.plan",
    }
    assert model.max_batch_size == 4  # what both can

    assert CliRunner().invoke(main, [*command, "0"]).exit_code == 0
    model = read(tmp_path, sd15.UNET)
    assert (model.default_model_filename, model.max_batch_size) == ("model_fp16_sm90_trt10.13.plan", 16)
    assert dict(model.cc_model_filenames) == {}


def test_without_gpus_there_are_no_engines(tmp_path: Path, no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = failure(capsys, "--engine", "tensorrt", "--output", str(tmp_path))
    assert sentence == "Error: --engine tensorrt needs --gpus: an engine runs on a GPU only.\n"
    assert list(tmp_path.iterdir()) == []


def test_networks_without_an_engine_are_named(tmp_path: Path, no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    for spec in NETWORKS:
        if spec not in (sd15.UNET, sd15.VAE_DECODER):
            install(spec, tmp_path)
    install(sd15.VAE_DECODER, tmp_path)
    write_onnx(sd15.VAE_DECODER, tmp_path / "sd15_vae_decoder" / "1", "fp16")

    sentence = failure(capsys, "--engine", "tensorrt", "--gpus", "0", "--output", str(tmp_path))

    listed = "of sd15_unet (not built), sd15_vae_decoder (built of another model.onnx); run first: "
    assert listed + "python -m exporters tensorrt, or name the networks" in sentence
    assert list(tmp_path.rglob("config.pbtxt")) == []


def test_engines_for_other_gpus_are_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(sd15.UNET, tmp_path, gpu=A100)
    monkeypatch.setattr("exporters.tensorrt.engines.visible_gpus", lambda: (H100, A100))
    options = ("--engine", "tensorrt", "--model", "sd15_unet", "--output", str(tmp_path))
    assert "no TensorRT engine for compute capability 9.0 in" in failure(capsys, *options, "--gpus", "0")
    assert "for compute capability 8.0, 9.0 in" in failure(capsys, *options, "--gpus", "0,1")


def test_a_batch_over_that_of_the_engine_is_refused(
    tmp_path: Path, no_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    install(sd15.UNET, tmp_path, max_batch=4)
    options = ("--engine", "tensorrt", "--gpus", "0", "--model", "sd15_unet", "--output", str(tmp_path))
    sentence = failure(capsys, *options, "--max-batch", "8")
    assert "The engine of sd15_unet takes batches of up to 4; got --max-batch 8." in sentence
    assert CliRunner().invoke(main, ["config", *options]).exit_code == 0
    assert read(tmp_path, sd15.UNET).max_batch_size == 4
    assert CliRunner().invoke(main, ["config", *options, "--max-batch", "2"]).exit_code == 0
    assert read(tmp_path, sd15.UNET).max_batch_size == 2


def test_committed_configs_know_nothing_of_engines() -> None:
    result = CliRunner().invoke(main, ["config", "--check"])
    assert result.exit_code == 0, result.output
    for spec in NETWORKS:
        assert "tensorrt" not in config.config_path(ROOT / "model_repository", spec).read_text()


def test_a_network_without_an_engine_stays_as_it_is() -> None:
    served = {"other": Served(files={"9.0": "x.plan"}, max_batch=1, profiles=2)}
    plain = Placement(gpus=(0,))
    for spec in SPECS:
        assert config.render(spec, Placement(gpus=(0,), engines=served)) == config.render(spec, plain)
