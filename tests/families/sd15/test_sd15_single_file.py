"""The demo checkpoint in one file: the same networks as those of its folder, with no configuration named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from darkroom.pipelines.sd15 import networks
from exporters.checkpoints.origin import Origin
from exporters.export import ModelExport
from exporters.files import ROOT
from exporters.sd15 import command, export, weights
from exporters.tasks import run_task
from tests.single_files import write_single_file

DEMO = ROOT / "checkpoints" / "demo-sd15"
PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    made = tmp_path_factory.mktemp("demo")
    file = write_single_file(DEMO, made / "photos.safetensors")
    return command.origin(str(file), made, made / "cache")


def exported(checkpoint: Origin, repository: Path) -> bytes:
    """The graph of the text encoder, with its weights."""
    spec = networks.TEXT_ENCODER
    run_task(
        export.task_of(ModelExport(spec=spec, repository=repository, checkpoint=checkpoint)), force=False, quiet=True
    )
    return (repository / spec.name / "1" / "model.onnx").read_bytes()


@pytest.mark.parametrize("part", PARTS)
def test_demo_in_one_file_has_the_same_networks(single: Origin, part: str) -> None:
    ours, theirs = (weights.read_checkpoint(root).component(part) for root in (single.root, DEMO))
    assert ours.config == theirs.config
    mine, other = (weights.load(part, component).state_dict() for component in (ours, theirs))
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], value) for name, value in other.items())


def test_demo_in_one_file_has_the_same_schedule_and_tokens(single: Origin) -> None:
    for name in ("scheduler/scheduler_config.json", "generation_config.json", "tokenizer/vocab.json"):
        assert json.loads((single.root / name).read_text()) == json.loads((DEMO / name).read_text())


def test_demo_in_one_file_is_exported_as_its_folder(single: Origin, tmp_path: Path) -> None:
    folder = command.origin(str(DEMO), tmp_path, tmp_path)
    assert exported(single, tmp_path / "one") == exported(folder, tmp_path / "other")
