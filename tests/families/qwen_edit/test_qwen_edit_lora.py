"""LoRAs that become part of the transformer: every layout, against diffusers, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.numpy import save_file
from safetensors.torch import load_file

from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.transformer import load_transformer
from exporters.errors import ExportError
from exporters.merged_lora import LoraFile, lora_file
from exporters.qwen_edit.command import qwen_edit
from exporters.qwen_edit.pipeline import LIGHTNING_SCHEDULER
from tests.families.qwen_edit import tiny
from tests.families.qwen_edit.edits import FIRST, TOLERANCE, difference, ours, picture, theirs

PLACE: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}
RANK, ALPHA = 4, 2.0
LIGHTNING = "Qwen-Image-Edit-2509-Lightning-4steps-V1.0.safetensors"
Change = dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]
"""Module -> down (rank, in) and up (out, rank)."""
Layout = Callable[[str], tuple[str, str, str]]
"""Module -> the names of down, up and alpha."""
LAYOUTS: dict[str, Layout] = {
    "Lightning": lambda module: (f"{module}.lora_down.weight", f"{module}.lora_up.weight", f"{module}.alpha"),
    "diffusion_model": lambda module: (
        f"diffusion_model.{module}.lora_down.weight",
        f"diffusion_model.{module}.lora_up.weight",
        f"diffusion_model.{module}.alpha",
    ),
    "transformer": lambda module: (
        f"transformer.{module}.lora_A.weight",
        f"transformer.{module}.lora_B.weight",
        f"transformer.{module}.alpha",
    ),
    "PEFT": lambda module: (
        f"{module}.lora_A.default.weight",
        f"{module}.lora_B.default.weight",
        f"{module}.alpha",
    ),
    "kohya": lambda module: (
        f"lora_unet_{module.replace('.', '_')}.lora_down.weight",
        f"lora_unet_{module.replace('.', '_')}.lora_up.weight",
        f"lora_unet_{module.replace('.', '_')}.alpha",
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """diffusers' pipeline, and the folder of its checkpoint."""
    folder = tmp_path_factory.mktemp("made") / "checkpoint"
    return tiny.write_checkpoint(folder, plus=True), folder


@pytest.fixture(scope="module")
def weights(made: tuple[Any, Path]) -> dict[str, torch.Tensor]:
    return load_file(made[1] / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def change(weights: dict[str, torch.Tensor]) -> Change:
    """Of every linear module in the blocks, and large enough to be seen."""
    random = np.random.default_rng(1)
    shapes = {
        name.removesuffix(".weight"): tuple(weight.shape)
        for name, weight in weights.items()
        if name.startswith("transformer_blocks") and weight.ndim == 2
    }
    return {
        module: (
            random.normal(0, 0.2, (RANK, columns)).astype(np.float32),
            random.normal(0, 0.2, (rows, RANK)).astype(np.float32),
        )
        for module, (rows, columns) in shapes.items()
    }


def write(path: Path, change: Change, layout: Layout, alpha: float | None = ALPHA, **metadata: str) -> Path:
    tensors = {}
    for module, (down, up) in change.items():
        names = layout(module)
        tensors[names[0]], tensors[names[1]] = down, up
        if alpha is not None:
            tensors[names[2]] = np.array(alpha, np.float32)
    save_file(tensors, path, metadata=metadata or None)
    return path


def opened(path: Path, steps: int | None = None) -> LoraFile:
    return lora_file(str(path), path.parent, steps)


@pytest.mark.parametrize("name", LAYOUTS)
def test_qwen_edit_lora_of_every_layout_is_added_to_the_weights(
    made: tuple[Any, Path], weights: dict[str, torch.Tensor], change: Change, tmp_path: Path, name: str
) -> None:
    path = write(tmp_path / "style.safetensors", change, LAYOUTS[name])
    loaded = load_transformer(tiny.exported_transformer(made[1], tmp_path, opened(path)), **PLACE).state_dict()
    assert loaded.keys() == weights.keys()
    for key, weight in weights.items():
        down, up = change.get(key.removesuffix(".weight"), (None, None))
        added = 0.0 if down is None or up is None else torch.from_numpy(up @ down * (ALPHA / RANK))
        torch.testing.assert_close(loaded[key], weight + added, rtol=1e-5, atol=1e-6)


def test_qwen_edit_lora_without_alpha_counts_in_full(
    made: tuple[Any, Path], weights: dict[str, torch.Tensor], change: Change, tmp_path: Path
) -> None:
    path = write(tmp_path / "style.safetensors", change, LAYOUTS["transformer"], alpha=None)
    module = next(iter(change))
    loaded = load_transformer(tiny.exported_transformer(made[1], tmp_path, opened(path)), **PLACE).state_dict()
    down, up = change[module]
    torch.testing.assert_close(loaded[f"{module}.weight"], weights[f"{module}.weight"] + torch.from_numpy(up @ down))


@pytest.mark.parametrize("name", ["Lightning", "PEFT"])
def test_qwen_edit_lightning_makes_the_images_of_diffusers(
    made: tuple[Any, Path], change: Change, tmp_path: Path, name: str
) -> None:
    path = write(tmp_path / LIGHTNING, change, LAYOUTS[name])
    components = tiny.make_components(*made, tmp_path / "models", opened(path))
    mine = ours(components, [picture(FIRST), picture((64, 96), 1)], seed=7, negative_prompt="a dog")
    pipeline = tiny.make_pipeline(plus=True)
    pipeline.load_lora_weights(str(path))
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(LIGHTNING_SCHEDULER)
    other = theirs(
        pipeline,
        [picture(FIRST), picture((64, 96), 1)],
        size=FIRST,
        seed=7,
        num_inference_steps=4,
        negative_prompt="a dog",
        true_cfg_scale=1.0,
    )
    assert difference(mine, other) <= TOLERANCE
    assert mine.std() > 5
    whole = write(tmp_path / "whole-4steps.safetensors", change, LAYOUTS[name], alpha=None)
    ignored = tiny.make_components(*made, tmp_path / "ignored", opened(whole))
    assert difference(ours(ignored, [picture(FIRST), picture((64, 96), 1)], seed=7), mine) > 3 * TOLERANCE


def test_qwen_edit_only_lightning_decides_steps_guidance_and_scheduler(
    made: tuple[Any, Path], change: Change, tmp_path: Path
) -> None:
    path = write(tmp_path / LIGHTNING, change, LAYOUTS["Lightning"])
    facts = tiny.exported(made[1], tmp_path / "models", opened(path))
    plain = tiny.exported(made[1], tmp_path / "plain")
    assert facts.request_defaults == {"steps": 4, "true_guidance_scale": 1.0}
    assert facts.name == f"checkpoint+{path.stem}"
    assert facts.digest != plain.digest
    assert facts.scheduler["base_shift"] == facts.scheduler["max_shift"] == math.log(3)
    assert facts.scheduler["shift_terminal"] is None
    assert (facts.plus, facts.condition_area) == (plain.plus, plain.condition_area)
    style = write(tmp_path / "style.safetensors", change, LAYOUTS["Lightning"])
    styled = tiny.exported(made[1], tmp_path / "style", opened(style))
    assert (styled.scheduler, styled.request_defaults) == (plain.scheduler, plain.request_defaults)


@pytest.mark.parametrize(
    ("name", "title", "given", "steps", "label"),
    [
        (LIGHTNING, "", None, 4, "lightning-4"),
        ("Qwen-Image-Lightning-8steps-V2.0-bf16.safetensors", "", None, 8, "lightning-8"),
        ("fast.safetensors", "Lightning, 8 steps", None, 8, "lightning-8"),
        ("fast.safetensors", "", 4, 4, "lightning-4"),
        (LIGHTNING, "", 8, 8, "lightning-8"),
        ("paper-2509.safetensors", "", None, None, "lora"),
    ],
)
def test_qwen_edit_lora_says_its_steps(
    tmp_path: Path, name: str, title: str, given: int | None, steps: int | None, label: str
) -> None:
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / name, metadata={"modelspec.title": title})
    found = opened(tmp_path / name, given)
    assert (found.steps, found.label) == (steps, label)


def test_qwen_edit_lora_files_that_cannot_be_used_are_one_sentence(
    made: tuple[Any, Path], change: Change, tmp_path: Path
) -> None:
    def refused(path: Path, text: str) -> None:
        with pytest.raises(ExportError) as raised:
            tiny.exported_transformer(made[1], tmp_path / "models", opened(path))
        assert text in str(raised.value)
        assert not (tmp_path / "models" / networks.TRANSFORMER.name / "1").exists()

    other = {"down_blocks.0.attentions.0.to_q": next(iter(change.values()))}
    refused(write(tmp_path / "sdxl.safetensors", other, LAYOUTS["Lightning"]), "none of its 3 tensors changes checkp")
    wide = {module: (np.ones((RANK, 7), np.float32), up) for module, (_, up) in change.items()}
    refused(write(tmp_path / "wide.safetensors", wide, LAYOUTS["Lightning"]), "has the shape [4, 7], and transformer_")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    refused(tmp_path / "bad.safetensors", "bad.safetensors cannot be read")
    refused(tmp_path / "missing.safetensors", "is not there")
    refused(write(tmp_path / "Lightning.safetensors", change, LAYOUTS["PEFT"]), "add --steps 4 or --steps 8")


def test_qwen_edit_export_without_the_lora_removes_it(made: tuple[Any, Path], change: Change, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", change, LAYOUTS["PEFT"])
    assert (tiny.exported_transformer(made[1], tmp_path, opened(path)) / "lora.safetensors").is_file()
    assert not (tiny.exported_transformer(made[1], tmp_path) / "lora.safetensors").exists()


def test_qwen_edit_steps_without_a_lora_are_refused() -> None:
    answer = CliRunner().invoke(qwen_edit, ["--steps", "4"])
    assert answer.exit_code == 2
    assert "goes with --lora" in answer.output
