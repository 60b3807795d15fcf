"""What the exporter reads of a checkpoint, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from darkroom.diffusion.sampling import get_schedule
from darkroom.diffusion.schedulers import FLOW_SCHEDULERS
from darkroom.errors import InvalidInput
from darkroom.pipelines.qwen_edit.checkpoint import QwenEditCheckpointInfo
from darkroom.pipelines.qwen_edit.text_encoder import load_text_encoder
from darkroom.pipelines.qwen_edit.transformer import load_transformer
from exporters.checkpoints.contents import Contents
from exporters.errors import ExportError
from exporters.qwen_edit import export, pipeline, weights
from exporters.registry import family_of
from exporters.torch_weights import read_shapes
from tests.families.qwen_edit import tiny

PLACE: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "checkpoint"
    tiny.write_checkpoint(folder, plus=True)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "checkpoint"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", ["QwenImageEditPipeline", "QwenImageEditPlusPipeline"])
def test_qwen_edit_checkpoints_are_recognised(name: str) -> None:
    assert family_of(Contents(title="x", index={"_class_name": name})).name == "qwen_edit"


def test_qwen_edit_export_writes_what_the_loop_reads(qwen_edit_repository: Path) -> None:
    facts = QwenEditCheckpointInfo.read(qwen_edit_repository / "qwen_edit" / "1")
    assert (facts.plus, facts.steps, facts.true_guidance_scale, facts.most_images) == (True, 4, 4.0, 5)
    assert (facts.condition_area, facts.reference_area) == (tiny.CONDITION_AREA, tiny.REFERENCE_AREA)
    assert facts.scheduler["shift_terminal"] == 0.02
    assert np.shape(facts.latent_rgb) == (17, 3)
    assert not (qwen_edit_repository / "qwen_edit_transformer" / "1" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("name", "steps", "condition"),
    [("QwenImageEditPlusPipeline", 40, 384 * 384), ("QwenImageEditPipeline", 50, 1024 * 1024)],
)
def test_qwen_edit_published_checkpoints_have_diffusers_values(
    folder: Path, name: str, steps: int, condition: int
) -> None:
    change(folder / "model_index.json", _class_name=name)
    (folder / "generation_config.json").unlink()
    found = pipeline.sampling_of(weights.read_checkpoint(folder))
    assert (found["steps"], found["condition_area"], found["reference_area"]) == (steps, condition, 1024 * 1024)
    assert (found["dropped_tokens"], found["side"]) == (64, 1024)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            lambda root: change(root / "model_index.json", _class_name="QwenImagePipeline"),
            "QwenImagePipeline; exp",
        ),
        (lambda root: change(root / "transformer/config.json", guidance_embeds=True), "guidance_embeds is True"),
        (lambda root: change(root / "transformer/config.json", joint_attention_dim=64), "joint_attention_dim is 64"),
        (lambda root: change(root / "vae/config.json", z_dim=4), "z_dim is 4, expected 16"),
        (lambda root: shutil.rmtree(root / "transformer"), "transformer/config.json"),
        (lambda root: (root / "vae/diffusion_pytorch_model.safetensors").unlink(), "has no weights vae/"),
    ],
)
def test_qwen_edit_unfit_checkpoints_are_one_sentence(folder: Path, damage: Callable[[Path], Any], text: str) -> None:
    damage(folder)
    with pytest.raises(ExportError) as raised:
        weights.read_checkpoint(folder)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_qwen_edit_area_out_of_range_is_refused(folder: Path) -> None:
    change(folder / "generation_config.json", reference_area=10)
    with pytest.raises(ExportError, match="reference_area must be a whole number from 1024 to"):
        pipeline.sampling_of(weights.read_checkpoint(folder))


def test_qwen_edit_weights_of_another_network_are_refused(folder: Path) -> None:
    parts = weights.read_checkpoint(folder).parts
    for part, check in (
        (weights.TRANSFORMER, export.check_transformer),
        (weights.TEXT_ENCODER, export.check_text_encoder),
    ):
        check(parts[part], read_shapes(parts[part]))
    change(folder / "transformer/config.json", num_layers=3)
    text = json.loads((folder / "text_encoder/config.json").read_text())["text_config"]
    change(folder / "text_encoder/config.json", text_config={**text, "vocab_size": 300})
    parts = weights.read_checkpoint(folder).parts
    with pytest.raises(ExportError, match=r"transformer holds the weights of another network: transformer_blocks\.2"):
        export.check_transformer(parts[weights.TRANSFORMER], read_shapes(parts[weights.TRANSFORMER]))
    with pytest.raises(ExportError, match=r"embed_tokens.weight has the shape \(263, 32\), expected \(300, 32\)"):
        export.check_text_encoder(parts[weights.TEXT_ENCODER], read_shapes(parts[weights.TEXT_ENCODER]))


def test_qwen_edit_text_encoder_without_a_weight_does_not_load(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "layers.1.mlp" in name))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="another text encoder"):
        load_text_encoder(folder / "text_encoder", **PLACE)


def test_qwen_edit_transformer_is_read_from_several_files(folder: Path) -> None:
    whole = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    one = load_transformer(whole.parent, **PLACE).state_dict()
    tensors = sorted(load_file(whole).items())
    whole.unlink()
    for number, part in enumerate((tensors[:30], tensors[30:])):
        save_file(dict(part), whole.with_name(f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"))
    other = load_transformer(whole.parent, **PLACE).state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", [None, *FLOW_SCHEDULERS])
def test_qwen_edit_schedules_begin_with_noise_and_refuse_a_single_step(name: str | None) -> None:
    config = {**tiny.SCHEDULER, "_class_name": "FlowMatchEulerDiscreteScheduler"}
    schedule = get_schedule(name, config, 4, tokens=35, sigmas=[1.0, 0.75, 0.5, 0.25])
    assert float(schedule.timesteps[0]) >= 999
    with pytest.raises(InvalidInput, match="1 steps do not work"):
        get_schedule(name, config, 1, tokens=35, sigmas=[1.0])
