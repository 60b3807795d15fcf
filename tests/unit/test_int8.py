"""Linear modules with weights of 8 bits: how far they are off, what they take, and what is left as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from darkroom.diffusion.int8 import Int8Linear, rounded, use_int8
from darkroom.diffusion.merged_lora import LORA_NAME
from darkroom.diffusion.torch_weights import assign_weights

CPU = torch.device("cpu")


def network(device: str = "cpu") -> nn.Module:
    with torch.device(device):
        block = nn.Sequential(nn.Linear(48, 96), nn.SiLU(), nn.Linear(96, 48, bias=False))
        return nn.ModuleDict({"blocks": nn.ModuleList([block]), "last": nn.Linear(48, 8)})


def run(model: nn.Module, states: torch.Tensor) -> torch.Tensor:
    for block in model["blocks"]:  # type: ignore[index]
        states = block(states)
    made: torch.Tensor = model["last"](states)  # type: ignore[index]
    return made


@pytest.fixture
def stored(tmp_path: Path) -> nn.Module:
    """A network whose weights are in tmp_path."""
    torch.manual_seed(0)
    model = network()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return model


def loaded(folder: Path, dtype: torch.dtype) -> nn.Module:
    model = network("meta")
    use_int8(model, ["blocks"])
    assign_weights(model, folder, device=CPU, dtype=dtype)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_weights_are_within_half_a_level(dtype: torch.dtype) -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    weight[3] = 0
    levels, scale = rounded(weight, dtype)
    assert (levels.dtype, scale.dtype, scale.shape) == (torch.int8, dtype, (64, 1))
    step = scale.float()
    assert ((levels * step - weight).abs() <= step * 0.51 + weight.abs() * torch.finfo(dtype).eps).all()
    assert not (levels[3] * scale[3]).any()


def test_int8_network_answers_nearly_the_same(stored: nn.Module, tmp_path: Path) -> None:
    model = loaded(tmp_path, torch.float32)
    states = torch.randn(5, 48, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        exact, near = run(stored, states), run(model, states)
    assert 0 < (exact - near).norm() / exact.norm() < 0.02


def test_int8_counts_only_below_the_parts_that_are_named(stored: nn.Module, tmp_path: Path) -> None:
    model = loaded(tmp_path, torch.bfloat16)
    kinds = {name: type(module) for name, module in model.named_modules()}
    assert kinds["blocks.0.0"] is kinds["blocks.0.2"] is Int8Linear
    assert kinds["last"] is nn.Linear
    assert model.state_dict()["last.weight"].dtype == torch.bfloat16
    assert model.state_dict()["blocks.0.0.bias"].dtype == torch.bfloat16


def test_int8_weights_are_rounded_with_their_lora(stored: nn.Module, tmp_path: Path) -> None:
    down, up = torch.randn(2, 48), torch.randn(96, 2)
    save_file({"blocks.0.0.down": down, "blocks.0.0.up": up}, tmp_path / LORA_NAME)
    changed = loaded(tmp_path, torch.float32).get_submodule("blocks.0.0")
    wanted = stored.get_submodule("blocks.0.0").weight + up @ down
    assert isinstance(changed, Int8Linear)
    assert (changed.weight * changed.scale - wanted).abs().max() <= changed.scale.max()


def test_lora_of_another_network_does_not_load(stored: nn.Module, tmp_path: Path) -> None:
    save_file({"layers.0.down": torch.zeros(2, 48), "layers.0.up": torch.zeros(96, 2)}, tmp_path / LORA_NAME)
    with pytest.raises(RuntimeError, match=r"for another network: it changes layers\.0"):
        loaded(tmp_path, torch.float32)


def test_weights_of_another_network_do_not_load(tmp_path: Path) -> None:
    save_file({"other.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"blocks\.0\.0\.weight"):
        loaded(tmp_path, torch.float32)
