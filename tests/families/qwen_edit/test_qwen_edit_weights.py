"""How the weights of the text encoder and the transformer come into memory: in any names, whole or in 8 bits."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2_5_VLModel

from darkroom.diffusion.maps import load_maps
from darkroom.pipelines.qwen_edit.attention import RowAttention
from darkroom.pipelines.qwen_edit.settings import Settings
from darkroom.pipelines.qwen_edit.text_encoder import load_text_encoder
from darkroom.pipelines.qwen_edit.text_encoder_model import QwenEditTextEncoderModel
from darkroom.pipelines.qwen_edit.transformer import load_transformer
from darkroom.pipelines.qwen_edit.transformer_model import QwenEditTransformerModel
from tests.families.qwen_edit import tiny
from tests.families.qwen_edit.edits import FIRST, TOLERANCE, difference, ours, picture

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """diffusers' pipeline, and the folder of its checkpoint."""
    folder = tmp_path_factory.mktemp("made") / "checkpoint"
    return tiny.write_checkpoint(folder, plus=True), folder


def size(model: nn.Module) -> int:
    """Bytes of weights."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_qwen_edit_text_encoder_is_that_of_transformers(made: tuple[Any, Path], dtype: torch.dtype) -> None:
    folder = made[1] / "text_encoder"
    own = load_text_encoder(folder, device=CPU, dtype=dtype)
    theirs = Qwen2_5_VLModel.from_pretrained(folder, dtype=dtype)
    for mine, other in (
        (own.state_dict(), theirs.state_dict()),
        (dict(own.named_buffers()), dict(theirs.named_buffers())),
    ):
        assert mine.keys() == other.keys()
        for name, value in other.items():
            assert mine[name].dtype == value.dtype, name
            assert torch.equal(mine[name], value), name


def test_qwen_edit_text_encoder_is_read_in_the_names_of_published_files(made: tuple[Any, Path], tmp_path: Path) -> None:
    folder = made[1] / "text_encoder"
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    stored = load_file(folder / "model.safetensors")
    old = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor
        for name, tensor in stored.items()
    }
    assert any(name.startswith("visual.blocks.0") for name in old)
    assert any(name.startswith("model.layers.0") for name in old)
    save_file(old, tmp_path / "model.safetensors")
    one, other = (load_text_encoder(path, device=CPU, dtype=torch.float32).state_dict() for path in (folder, tmp_path))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_qwen_edit_int8_weights_take_half_of_bfloat16(tmp_path: Path) -> None:
    """Of layers as wide as here beside their scales, and in 8 bits all but embeddings and first and last layers."""
    torch.manual_seed(0)
    model = tiny.make_transformer(attention_head_dim=64, num_layers=4, axes_dims_rope=(16, 24, 24))
    model.save_pretrained(tmp_path)
    whole = load_transformer(tmp_path, device=CPU, dtype=torch.bfloat16)
    eight = load_transformer(tmp_path, device=CPU, dtype=torch.bfloat16, int8=True)
    assert 0.5 < size(eight) / size(whole) < 0.54


def test_qwen_edit_int8_edits_stay_near(made: tuple[Any, Path], tmp_path: Path) -> None:
    whole = tiny.make_components(*made, tmp_path / "whole")
    eight = tiny.make_components(*made, tmp_path / "eight", int8=True)
    exact, near = (ours(one, [picture(FIRST)], seed=7, negative_prompt="a dog") for one in (whole, eight))
    error = float(np.mean((exact.astype(float) - near.astype(float)) ** 2))
    assert error > 0
    assert 10 * math.log10(255**2 / error) > 30


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("QWEN_EDIT_WEIGHTS", "int4"),
        ("QWEN_EDIT_TEXT_ENCODER_WEIGHTS", "nf4"),
        ("QWEN_EDIT_TEXT_ENCODER_DEVICE", "disk"),
    ],
)
def test_qwen_edit_unknown_weights_are_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError, match=variable.lower()):
        Settings()


def test_qwen_edit_settings_decide_the_weights_of_each_network(
    made: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_EDIT_TEXT_ENCODER_WEIGHTS", "int8")
    monkeypatch.setenv("QWEN_EDIT_TEXT_ENCODER_DEVICE", "cpu")
    network = QwenEditTextEncoderModel()
    network.setup(made[1] / "text_encoder", "GPU", 0, 1)
    assert network.device() == "torch cpu"
    assert Settings().weights == "full"
    kinds = {tensor.dtype for tensor in network._model.state_dict().values()}
    assert kinds == {torch.int8, torch.float32}


def test_qwen_edit_transformer_runs_on_the_kernels_of_the_settings(
    made: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("QWEN_EDIT_ATTENTION", "efficient,math")
    network = QwenEditTransformerModel()
    network.setup(made[1] / "transformer", "CPU", 0, 1)
    (gauge,) = network.gauges()
    assert (gauge.name, gauge.labels) == ("darkroom_network_attention", {"plain": "math", "masked": "math"})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "The attention kernel efficient does not work here" in caplog.text
    processors = {type(one) for one in network._whole[0].attn_processors.values()}
    assert processors == {RowAttention}


def test_qwen_edit_map_is_one_more_image(made: tuple[Any, Path], tmp_path: Path) -> None:
    components = dataclasses.replace(tiny.make_components(*made, tmp_path), maps=load_maps({}))
    first = picture(FIRST)
    mapped = ours(components, [first], seed=7, make_map="edges")
    sent = ours(components, [first, components.maps["edges"](first)], seed=7)
    assert difference(mapped, sent) == 0
    assert difference(mapped, ours(components, [first], seed=7)) > TOLERANCE
