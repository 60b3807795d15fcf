"""The usual configurations of single files, at the real sizes: no weights, only shapes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from exporters.checkpoints import clip_tokenizer
from exporters.checkpoints.single_file import configuration, shapes
from exporters.checkpoints.single_file.header import Header
from exporters.checkpoints.single_file.kind import Part
from exporters.checkpoints.single_file.tokenizer import write_tokenizer
from exporters.errors import ExportError
from exporters.sd15 import single_file as sd15
from exporters.sd15 import weights as sd15_weights
from exporters.sdxl import single_file as sdxl
from exporters.sdxl import weights as sdxl_weights
from tests import single_files

KINDS = {"sd15": sd15.KIND, "sdxl": sdxl.BASE, "refiner": sdxl.REFINER}
# Published numbers of weights: those of the model cards and of the papers (860 M; 2.6 B; 123 M and 695 M; 84 M).
WEIGHTS = {
    ("sd15", "unet"): 859_520_964,
    ("sd15", "vae"): 83_653_863,
    ("sd15", "text_encoder"): 123_060_480,
    ("sdxl", "unet"): 2_567_463_684,
    ("sdxl", "vae"): 83_653_863,
    ("sdxl", "text_encoder"): 123_060_480,
    ("sdxl", "text_encoder_2"): 694_659_840,
    ("refiner", "unet"): 2_259_526_660,
}


@dataclass(frozen=True)
class Real:
    """A network at its real size, without its weights."""

    state: dict[str, Tensor]
    config: dict[str, Any]

    @property
    def weights(self) -> int:
        return sum(value.numel() for value in self.state.values())


@cache
def real(kind: str, name: str) -> Real:
    part = part_of(kind, name)
    config = configuration.usual(KINDS[kind]).of(part)
    with torch.device("meta"):
        if name == "unet":
            model: Any = UNet2DConditionModel.from_config(config)
        elif name == "vae":
            model = AutoencoderKL.from_config(config)
        else:
            plain = CLIPTextConfig(**{k: v for k, v in config.items() if k not in ("architectures", "model_type")})
            model = (CLIPTextModelWithProjection if name.endswith("_2") else CLIPTextModel)(plain)
    return Real(state=dict(model.state_dict()), config=config)


def part_of(kind: str, name: str) -> Part:
    return next(part for part in KINDS[kind].parts if part.name == name)


def original_state(kind: str, name: str) -> dict[str, Tensor]:
    """By the original names, without the prefix."""
    found = real(kind, name)
    if name == "unet":
        return {single_files.unet_name(key, found.config): value for key, value in found.state.items()}
    if name == "vae":
        return {single_files.vae_name(key, found.config): value for key, value in found.state.items()}
    return (single_files.open_clip_state if name.endswith("_2") else single_files.clip_state)(found.state)


def original_shapes(kind: str, name: str) -> dict[str, tuple[int, ...]]:
    """By the original names, without the prefix."""
    return {key: tuple(value.shape) for key, value in original_state(kind, name).items()}


def header_of(kind: str, file: Path) -> Header:
    found = {
        f"{part.prefix}{name}": shape
        for part in KINDS[kind].parts
        for name, shape in original_shapes(kind, part.name).items()
    }
    return Header(file=file, shapes=found, metadata={})


def read_whole(kind: str, tmp_path: Path) -> Path:
    """The folder of a file of the real sizes; its weights are empty files."""
    header = header_of(kind, tmp_path / "photos.safetensors")
    found = configuration.read(KINDS[kind], header, None, None)
    target = tmp_path / kind
    configuration.write(KINDS[kind], header.file, found, target)
    for part in KINDS[kind].parts:
        (target / part.name / part.weights).touch()
    return target


@pytest.mark.parametrize(("kind", "name"), WEIGHTS)
def test_usual_configuration_has_the_published_number_of_weights(kind: str, name: str) -> None:
    assert real(kind, name).weights == WEIGHTS[kind, name]


@pytest.mark.parametrize(("kind", "name"), WEIGHTS)
def test_shapes_of_the_real_networks_tell_their_configuration(kind: str, name: str) -> None:
    derived = part_of(kind, name).derive(original_shapes(kind, name))
    usual = {"use_linear_projection": False, "transformer_layers_per_block": 1, **real(kind, name).config}
    if kind == "refiner":  # the first level has no attention, so that any number is right
        assert derived.pop("transformer_layers_per_block") == [1, 4, 4, 4]
    assert derived == {entry: usual[entry] for entry in derived}
    assert part_of(kind, name).width in derived


@pytest.mark.parametrize(("kind", "name"), WEIGHTS)
def test_every_weight_of_the_real_networks_finds_its_place(kind: str, name: str) -> None:
    """More than ten blocks, of which one name begins another one: input_blocks.1 and input_blocks.10."""
    part, found = part_of(kind, name), real(kind, name)
    state = {f"{part.prefix}{key}": value for key, value in original_state(kind, name).items()}
    translated = part.translate(state, found.config)
    ours = {key.removeprefix("text_model."): value for key, value in translated.items()}
    theirs = {key.removeprefix("text_model."): value for key, value in found.state.items()}
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    if name == "unet":  # only names change, so that every weight is the same object
        assert all(ours[key] is value for key, value in theirs.items())


def test_a_real_sd15_file_needs_nothing_else(tmp_path: Path) -> None:
    checkpoint = sd15_weights.read_checkpoint(read_whole("sd15", tmp_path))
    assert clip_tokenizer.convert(checkpoint.root, longest=77).pad_token_id == 49407


def test_real_sdxl_files_need_nothing_else(tmp_path: Path) -> None:
    base = sdxl_weights.read_checkpoint(read_whole("sdxl", tmp_path))
    assert sdxl_weights.read_refiner(read_whole("refiner", tmp_path), base).scored
    pads = [clip_tokenizer.convert(base.root, name, longest=77).pad_token_id for name in ("tokenizer", "tokenizer_2")]
    assert pads == [49407, 0]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("hello world!", [3306, 1002, 256]),
    ],
)
def test_tokens_of_clip(tmp_path: Path, text: str, tokens: list[int]) -> None:
    """Numbers of openai/CLIP's own tokenizer."""
    from tokenizers import Tokenizer

    write_tokenizer(tmp_path / "tokenizer", "<|endoftext|>")
    found = Tokenizer.from_str(clip_tokenizer.convert(tmp_path, longest=77).json)
    assert found.encode(text).ids == [49406, *tokens, 49407]


def test_a_file_with_tokens_of_its_own_needs_its_tokenizer(tmp_path: Path) -> None:
    header = header_of("sd15", tmp_path / "photos.safetensors")
    name = f"{single_files.TEXT}text_model.embeddings.token_embedding.weight"
    more = Header(file=header.file, shapes={**header.shapes, name: (49410, 768)}, metadata={})
    found = configuration.read(sd15.KIND, more, None, None)
    with pytest.raises(ExportError, match=r"knows 49410 tokens, CLIP's tokenizer has 49408: .* in tokenizer with"):
        configuration.write(sd15.KIND, header.file, found, tmp_path / "folder")


def test_a_narrow_file_without_configuration_says_what_to_do(tmp_path: Path) -> None:
    header = header_of("sd15", tmp_path / "photos.safetensors")
    name = f"{single_files.VAE}encoder.down.0.block.0.conv1.weight"
    other = Header(file=header.file, shapes={**header.shapes, name: (64, 128, 3, 3)}, metadata={})
    with pytest.raises(ExportError, match=r"block_out_channels of its VAE is \[64, .* for checkpoints of its kind\."):
        configuration.read(sd15.KIND, other, None, None)


# --- shapes


def kinds_of(levels: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of a UNet that is made for this."""
    usual = configuration.usual(sdxl.BASE).of(part_of("sdxl", "unet"))
    with torch.device("meta"):
        model = UNet2DConditionModel.from_config({**usual, **levels})
    return {single_files.unet_name(key, levels): tuple(value.shape) for key, value in model.state_dict().items()}


SMALL = {
    "block_out_channels": [32, 64, 64],
    "attention_head_dim": 4,
    "layers_per_block": 1,
    "cross_attention_dim": 48,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
    "transformer_layers_per_block": [3, 1, 2],
}


def test_shapes_of_a_unet_whose_sides_differ() -> None:
    found = shapes.unet_config(kinds_of(SMALL))
    wanted = {name: value for name, value in SMALL.items() if name in found}
    assert found == {**found, **wanted}
    assert "attention_head_dim" not in found, "it has no weights"


def test_shapes_of_a_unet_with_uneven_attention_leave_its_layers_out() -> None:
    found = kinds_of(SMALL)
    more = {name.replace("transformer_blocks.1", "transformer_blocks.2"): shape for name, shape in found.items()}
    assert "transformer_layers_per_block" in shapes.unet_config(found)
    assert "transformer_layers_per_block" not in shapes.unet_config(
        {**found, **{name: shape for name, shape in more.items() if name.startswith("middle_block.")}}
    )


def test_shapes_of_a_unet_with_uneven_levels_are_refused() -> None:
    found = kinds_of(SMALL)
    more = {name.replace("input_blocks.5.", "input_blocks.6."): shape for name, shape in found.items()}
    with pytest.raises(ExportError, match="the levels of its UNet have different numbers of layers"):
        shapes.unet_config({**found, **more})


def test_kinds_are_told_apart() -> None:
    for name, kind in KINDS.items():
        names = frozenset(f"{part.prefix}x" for part in kind.parts) | {f"{kind.mark}x"}
        assert [other for other, one in KINDS.items() if one.recognises(names)] == [name]
