"""Configs and code of models, rendered and prepared. Nothing here needs torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from darkroom.files import write_atomically
from darkroom.pipelines.hidream import networks as hidream
from darkroom.pipelines.upscale.networks import NETWORKS
from darkroom.registry import all_specs
from darkroom.serving.networks import ModelSpec, TensorSpec
from exporters import config
from exporters.cli import main
from exporters.config import Placement, config_path
from exporters.files import ROOT
from exporters.repository import specs_of
from exporters.upscale import command as upscale
from exporters.upscale.export import UpscalerExport

NETWORK = ModelSpec(
    name="net",
    backend="onnxruntime",
    inputs=(TensorSpec(name="image", dtype="UINT8", dims=(-1, -1, 3)),),
    outputs=(TensorSpec(name="upscaled", dtype="FP16", dims=(-1, 3)),),
    max_batch_size=8,
    max_batch_size_cpu=2,
)
PIPELINE = ModelSpec(
    name="line",
    backend="python",
    inputs=(TensorSpec(name="text", dtype="STRING", dims=(1,), optional=True),),
    outputs=(TensorSpec(name="done", dtype="BOOL", dims=(1,)),),
    decoupled=True,
    parameters={"b": "2", "a": "1"},
)


def parsed(spec: ModelSpec, placement: Placement | None = None) -> model_config_pb2.ModelConfig:
    """The rendered text, read by Triton's own schema: an unknown field or a wrong type fails."""
    return text_format.Parse(config.render(spec, placement or Placement()), model_config_pb2.ModelConfig())


def test_network_on_the_cpu() -> None:
    model = parsed(NETWORK)

    assert (model.name, model.backend, model.max_batch_size) == ("net", "onnxruntime", 2)
    assert [(i.name, i.data_type, list(i.dims), i.optional) for i in model.input] == [
        ("image", model_config_pb2.TYPE_UINT8, [-1, -1, 3], False)
    ]
    assert [(o.name, o.data_type, list(o.dims)) for o in model.output] == [
        ("upscaled", model_config_pb2.TYPE_FP16, [-1, 3])
    ]
    assert [(group.kind, group.count) for group in model.instance_group] == [
        (model_config_pb2.ModelInstanceGroup.KIND_CPU, 1)
    ]
    assert model.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert model.dynamic_batching == model_config_pb2.ModelDynamicBatching()
    assert not model.model_transaction_policy.decoupled
    assert dict(model.parameters) == {}


def test_network_on_gpus() -> None:
    model = parsed(NETWORK, Placement(gpus=(0, 2), instances=2, queue_delay_us=700))

    assert model.max_batch_size == 8
    group = model.instance_group[0]
    assert (group.kind, list(group.gpus), group.count) == (model_config_pb2.ModelInstanceGroup.KIND_GPU, [0, 2], 2)
    assert model.dynamic_batching.max_queue_delay_microseconds == 700
    assert model.parameters["cudnn_conv_algo_search"].string_value == "1"


def test_batch_and_threads_can_be_set() -> None:
    model = parsed(NETWORK, Placement(max_batch=5, threads=3))

    assert model.max_batch_size == 5
    assert model.parameters["intra_op_thread_count"].string_value == "3"


def test_pipeline_stays_on_the_cpu() -> None:
    model = parsed(PIPELINE, Placement(gpus=(0, 1), instances=3, max_batch=4, queue_delay_us=9, threads=2))

    assert (model.backend, model.max_batch_size) == ("python", 0)
    assert model.input[0].optional
    assert model.model_transaction_policy.decoupled
    assert [(group.kind, group.count) for group in model.instance_group] == [
        (model_config_pb2.ModelInstanceGroup.KIND_CPU, 1)
    ]
    assert model.WhichOneof("scheduling_choice") is None
    assert {key: value.string_value for key, value in model.parameters.items()} == {"a": "1", "b": "2"}


def test_registry_finds_the_family_and_all_its_models() -> None:
    names = [spec.name for spec in all_specs()]

    assert {"upscale", *(network.model_name for network in NETWORKS)} <= set(names)
    assert len(set(names)) == len(names)


def test_committed_configs_are_as_rendered() -> None:
    assert config.drift(ROOT / "model_repository", specs_of(ROOT / "model_repository"), Placement()) == ""


@pytest.mark.parametrize("spec", [spec for spec in all_specs() if spec.backend == "python"], ids=lambda spec: spec.name)
def test_a_models_code_imports_nothing_before_it_is_called(spec: ModelSpec) -> None:
    code = ROOT / "model_repository" / spec.name / "1" / "model.py"
    assert not code.exists() or code.read_text() == config.model_code(spec)
    program = config.model_code(spec) + "import sys; print({'torch', 'diffusers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_drift_is_shown_and_fails(tmp_path: Path) -> None:
    command = ["config", "--output", str(tmp_path)]
    assert CliRunner().invoke(main, [*command, "--check"]).exit_code == 1
    assert CliRunner().invoke(main, command).exit_code == 0
    assert CliRunner().invoke(main, [*command, "--check"]).exit_code == 0
    path = tmp_path / "realesrgan_x4plus" / "config.pbtxt"
    path.write_text(path.read_text().replace("max_batch_size: 2", "max_batch_size: 3"))

    result = CliRunner().invoke(main, [*command, "--check"])

    assert result.exit_code == 1
    assert "-max_batch_size: 3\n+max_batch_size: 2\n" in result.output
    assert "python -m exporters config" in result.output
    assert "max_batch_size: 3" in path.read_text()


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    specs = all_specs()
    assert len(config.write_configs(tmp_path, specs, Placement())) == len(specs)
    assert config.write_configs(tmp_path, specs, Placement()) == []


@pytest.mark.parametrize(
    "placement",
    [
        Placement(),
        Placement(threads=3, instances=2),
        Placement(gpus=(0, 2), queue_delay_us=700),
        Placement(gpus=(1,), max_batch=5, instances=4),
    ],
)
def test_placement_is_read_off_a_config(placement: Placement) -> None:
    assert config.placement_of(config.render(NETWORK, placement), NETWORK) == placement


def test_renew_writes_a_pipeline_again_and_nothing_that_users_wrote(tmp_path: Path) -> None:
    pipelines = [spec for spec in all_specs() if not spec.is_network]
    config.write_configs(tmp_path, [*pipelines, NETWORK], Placement())
    older, mine, network = (config_path(tmp_path, spec) for spec in (pipelines[0], pipelines[1], NETWORK))
    rendered = older.read_text()
    older.write_text(rendered.replace('name: "seed"', 'name: "chance"'))
    mine.write_text("# mine")
    network.write_text(network.read_text() + "# by hand")
    kept = network.read_text()

    for spec in (*pipelines, NETWORK):
        config.renew(tmp_path, spec)

    assert older.read_text() == rendered
    assert (mine.read_text(), network.read_text()) == ("# mine", kept)


# --- what ./start.sh prepares


def test_prepare_for_gpus_renders_a_repository_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, which this test only claims: which repository, which configs, which precision."""
    monkeypatch.setattr("darkroom.devices.gpu_names", lambda: ("A", "B", "C"))
    monkeypatch.setenv("STATE_DIR", str(tmp_path))
    monkeypatch.setenv("NUM_GPUS_TO_USE", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    exported: list[UpscalerExport] = []
    task_of = upscale.task_of
    monkeypatch.setattr(upscale, "task_of", lambda wanted: exported.append(wanted) or task_of(wanted))
    monkeypatch.setattr("exporters.tasks.run_task", lambda task, **_: None)
    result = CliRunner().invoke(main, ["prepare"])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "model_repository" / "realesrgan_x4plus" / "config.pbtxt").read_text()
    assert "gpus: [ 0, 1 ]" in text
    assert (tmp_path / "model_repository" / "upscale" / "1" / "model.py").is_file()
    assert {(one.precision, one.repository) for one in exported} == {("fp16", tmp_path / "model_repository")}


def test_prepare_leaves_a_foreign_repository_its_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config_file = tmp_path / "realesrgan_x4plus" / "config.pbtxt"
    write_atomically(config_file, b"# mine")
    monkeypatch.setenv("MODEL_REPOSITORY", str(tmp_path))
    monkeypatch.setattr("exporters.tasks.run_task", lambda task, **_: None)
    assert CliRunner().invoke(main, ["prepare"]).exit_code == 0
    assert config_file.read_bytes() == b"# mine"


# --- where a family goes that comes to a repository by itself


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which this test only claims; two of them are to be used."""
    monkeypatch.setattr("darkroom.devices.gpu_names", lambda: ("A", "B", "C"))
    monkeypatch.setenv("NUM_GPUS_TO_USE", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def place_hidream(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, Placement]]:
    """`python -m exporters hidream --output REPOSITORY` without the exports: the placements of its networks."""

    def place(repository: Path) -> dict[str, Placement]:
        monkeypatch.setattr("exporters.tasks.run_task", lambda task, **_: None)
        result = CliRunner().invoke(main, ["hidream", "--output", str(repository)])
        assert result.exit_code == 0, result.output
        networks = [spec for spec in hidream.specs() if spec.is_network]
        return {spec.name: config.placement_of(config_path(repository, spec).read_text(), spec) for spec in networks}

    return place


@pytest.mark.usefixtures("three_gpus")
def test_hidream_in_an_empty_repository_is_placed_on_the_gpus(
    tmp_path: Path, place_hidream: Callable[[Path], dict[str, Placement]]
) -> None:
    assert {placement.gpus for placement in place_hidream(tmp_path).values()} == {(0, 1)}


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize("beside", ["sd15_unet", "realesrgan_x4plus"])
def test_hidream_is_placed_as_the_networks_beside_it(
    tmp_path: Path, place_hidream: Callable[[Path], dict[str, Placement]], beside: str
) -> None:
    spec = next(spec for spec in all_specs() if spec.name == beside)
    config.write_configs(tmp_path, [spec], Placement(gpus=(2,), instances=2))
    placed = place_hidream(tmp_path).values()
    assert {(placement.gpus, placement.instances) for placement in placed} == {((2,), 2)}


def test_hidream_in_an_empty_repository_without_gpus_is_placed_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place_hidream: Callable[[Path], dict[str, Placement]]
) -> None:
    monkeypatch.setattr("darkroom.devices.gpu_names", lambda: ())
    assert {placement.gpus for placement in place_hidream(tmp_path).values()} == {()}
