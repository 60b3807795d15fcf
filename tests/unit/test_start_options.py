"""The start options of contract B: what they mean, what is refused, and the environment and configs that come of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from google.protobuf import text_format
from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2

from darkroom.devices import usable_gpus
from darkroom.pipelines.hidream.networks import T5, TRANSFORMER
from darkroom.pipelines.hidream.settings import Settings as HidreamSettings
from darkroom.settings import Settings
from exporters.config import Placement, placement_of, render
from exporters.placement import divided_placement
from proxy.network_metrics import Ranks, providers_of, ranks_of
from supervisor.cli import serve
from supervisor.options import family_options, family_settings
from tests.forget_settings import forget_settings


@click.command()
@family_options
def shown(**options: Any) -> None:
    """What the options stand for."""
    click.echo(json.dumps(family_settings(options)))


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


def settings_of(*options: str) -> dict[str, str]:
    result = CliRunner().invoke(shown, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, str] = json.loads(result.output)
    return found


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ((), {}),
        (("-d", "0"), {"HIDREAM_DEVICES": "0"}),
        (("--devices", "4, 5,6,7"), {"HIDREAM_DEVICES": "4,5,6,7"}),
        (("-c", "8", "-t", "npu"), {"HIDREAM_DEVICES": "0,1,2,3,4,5,6,7", "HIDREAM_DEVICE_TYPE": "npu"}),
        (("-d", "2,3", "--device-count", "2"), {"HIDREAM_DEVICES": "2,3"}),
        (("--device-type", "cpu"), {"HIDREAM_DEVICE_TYPE": "cpu"}),
        (("-m", "HiDream-ai/HiDream-I1-Dev@main"), {"HIDREAM_CHECKPOINT": "HiDream-ai/HiDream-I1-Dev@main"}),
        (("-e", "meta-llama/Llama-3.1-8B-Instruct"), {"HIDREAM_LLAMA": "meta-llama/Llama-3.1-8B-Instruct"}),
    ],
)
def test_what_options_stand_for(options: tuple[str, ...], settings: dict[str, str]) -> None:
    assert settings_of(*options) == settings


def test_folders_are_looked_for_in_the_project_then_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, here = tmp_path / "project", tmp_path / "here"
    for folder in (project / "both", here / "both", here / "llama"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert settings_of("-m", "both", "-e", "llama", "-p", str(project)) == {
        "HIDREAM_CHECKPOINT": str(project / "both"),
        "HIDREAM_LLAMA": str(here / "llama"),
    }
    assert settings_of("-m", "both") == {"HIDREAM_CHECKPOINT": str(here / "both")}
    assert settings_of("-m", str(project / "both")) == {"HIDREAM_CHECKPOINT": str(project / "both")}


def _refused(*options: str) -> Result:
    result = CliRunner().invoke(serve, options)
    assert result.exit_code == 2, result.output
    return result


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-d", "0,1,2"), "device count must be one of 1, 2, 4, 8; got 3."),
        (("-c", "16"), "device count must be one of 1, 2, 4, 8; got 16."),
        (("-d", "0,0"), "must name each device once; got '0,0'."),
        (("-d", "gpu0"), "numbers from 0 to 63 with commas between them; got 'gpu0'."),
        (("-c", "4", "-d", "0,1"), "-c 4 contradicts -d, which names 2 devices"),
        (("-t", "tpu"), "'tpu' is not one of 'cpu', 'cuda', 'npu'"),
        (("-m", "/no/such/folder"), "There is no folder '/no/such/folder', and it is no hub id"),
        (("-e", "llama"), "There is no folder 'llama', and it is no hub id"),
        (("-p", "/no/such/folder"), "'/no/such/folder' does not exist"),
        (("--port", "0"), "0 is not in the range 1<=x<=65535"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(options: tuple[str, ...], words: str) -> None:
    assert words in " ".join(_refused(*options).output.split())


def test_help_explains_each_option_of_the_contract() -> None:
    text = CliRunner().invoke(serve, ["--help"]).output
    for option in ("-m, --model-path", "-e, --extra-model-path", "-p, --project-path", "-d, --devices",
                   "-c, --device-count", "-t, --device-type", "--port", "--host"):  # fmt: skip
        assert option in text, option
    assert "-d 0,1,2,3" in text, "an example"


@pytest.mark.parametrize("value", ["0,1,2", "0,0", "a", "-1"])
def test_wrong_devices_in_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIDREAM_DEVICES", value)
    with pytest.raises(ValidationError, match=r"hidream_devices[\s\S]*device"):
        Settings()


def test_the_environment_of_npus(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of contract B, and read again by a child it is the same."""
    monkeypatch.setenv("HIDREAM_DEVICE_TYPE", "npu")
    monkeypatch.setenv("HIDREAM_DEVICES", "4,5,6,7")
    settings = Settings()
    env = settings.environment()
    wanted = {
        "ASCEND_RT_VISIBLE_DEVICES": "4,5,6,7",
        "DEVICE_COUNT": "4",
        "HCCL_TIMEOUT": "7200",
        "HCCL_BUFFSIZE": "2048",
        "HCCL_SINGLE_NODE": "1",
        "ACL_STREAM_TIMEOUT": "7200",
        "PYTORCH_NPU_ALLOC_CONF": "max_split_size_mb:512",
        "TOKENIZERS_PARALLELISM": "false",
        "HIDREAM_DEVICES": "4,5,6,7",
    }
    assert {name: env.get(name) for name in wanted} == wanted
    monkeypatch.setattr(os, "environ", env)
    assert Settings() == settings


def test_other_devices_need_no_environment() -> None:
    for kind in (None, "cpu", "cuda"):
        assert "HCCL_TIMEOUT" not in HidreamSettings(device_type=kind).environment()


def test_devices_that_are_not_there() -> None:
    assert HidreamSettings(device_type="cpu", devices=tuple(range(8))).problems(()) == []
    (problem,) = HidreamSettings(device_type="cuda", devices=(62, 63)).problems(())
    gpus = ", ".join(map(str, usable_gpus(None))) or "none"
    assert f"GPU 62, 63; this machine has {gpus}" in problem
    (problem,) = HidreamSettings(device_type="npu").problems(())
    assert "torch_npu" in problem


def test_without_another_than_the_first_device_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("darkroom.parallel.settings.usable_gpus", lambda wanted: (0, 1, 2))
    assert HidreamSettings(device_type="cuda", devices=(0, 1, 2, 3)).problems(()) == []
    assert "asks for GPU 3; this machine has 0, 1, 2. It goes on with GPU 0 alone." in caplog.text
    assert HidreamSettings(device_type="cuda", devices=(3, 0)).problems(())


def _instances(text: str) -> tuple[str, int, list[int]]:
    model = text_format.Parse(text, model_config_pb2.ModelConfig())
    (group,) = model.instance_group
    return model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind), group.count, list(group.gpus)


@pytest.mark.parametrize(
    ("kind", "devices", "instances"),
    [
        (None, (), ("KIND_GPU", 2, [0, 1, 2, 3])),  # as every network: a whole transformer each
        ("cuda", (), ("KIND_GPU", 2, [0, 1, 2, 3])),
        (None, (0, 1, 2, 3), ("KIND_GPU", 1, [0])),
        ("cuda", (2, 3), ("KIND_GPU", 1, [2])),
        ("cuda", (1,), ("KIND_GPU", 1, [1])),
        ("cpu", (0, 1), ("KIND_CPU", 1, [])),
        ("npu", tuple(range(8)), ("KIND_CPU", 1, [])),
        ("npu", (), ("KIND_CPU", 1, [])),
    ],
)
def test_a_divided_transformer_is_one_instance(
    kind: str | None, devices: tuple[int, ...], instances: tuple[str, int, list[int]]
) -> None:
    usual = Placement(gpus=(0, 1, 2, 3), instances=2)
    text = render(TRANSFORMER, divided_placement(usual, kind, devices))
    assert _instances(text) == instances
    rows = TRANSFORMER.parameters_cpu if kind == "cpu" else TRANSFORMER.parameters
    assert rows["rows_by_size"] in text
    assert f"max_batch_size: {8 if kind == 'cpu' else 16}" in text
    again = divided_placement(placement_of(text, TRANSFORMER), kind, devices)
    assert render(TRANSFORMER, again) == text, "from what is there as from the start"
    assert _instances(render(T5, usual)) == ("KIND_GPU", 2, [0, 1, 2, 3])


def test_an_accelerator_that_is_not_asked_for_any_more_leaves_nothing() -> None:
    once = render(TRANSFORMER, divided_placement(Placement(), "npu", tuple(range(4))))
    again = render(TRANSFORMER, divided_placement(placement_of(once, TRANSFORMER), None, ()))
    assert again == render(TRANSFORMER, Placement())
    chosen = render(TRANSFORMER, Placement(max_batch=3))
    assert render(TRANSFORMER, divided_placement(placement_of(chosen, TRANSFORMER), None, ())) == chosen


def test_devices_on_a_machine_without_gpus() -> None:
    text = render(TRANSFORMER, divided_placement(Placement(), None, (0, 1)))
    assert text == render(TRANSFORMER, Placement())


METRICS = r"""
# TYPE darkroom_network_provider gauge
darkroom_network_provider{device="0",model="hidream_transformer",process="7",provider="torch cpu",version="1"} 1
# TYPE darkroom_network_ranks gauge
darkroom_network_ranks{ep="2",model="hidream_transformer",process="7",tp="4",version="1"} %d
"""
FAILED = r"""
# TYPE darkroom_network_ranks_failed gauge
darkroom_network_ranks_failed{model="hidream_transformer",process="7",reason="a \"b\" c:\\d, e} 1",version="1"} 1.5e9
"""


def test_ranks_as_the_proxy_reads_them() -> None:
    well = Ranks(mode="distributed", ranks=8, healthy=8, tp=4, ep=2, last_failure=None, failed_at=None)
    assert ranks_of(METRICS % 8) == {"hidream_transformer": well}
    failed = ranks_of(METRICS % 0 + FAILED)["hidream_transformer"]
    assert (failed.mode, failed.healthy, failed.last_failure) == ("single", 0, r'a "b" c:\d, e} 1')
    assert failed.failed_at == "2017-07-14T02:40:00+00:00"
    assert providers_of(METRICS % 8) == {"hidream_transformer": "torch cpu"}
    assert ranks_of("") == providers_of("") == {}
