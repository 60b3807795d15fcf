"""Checkpoints as people have them: in one file, with other names of lists, with byte order marks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from exporters.checkpoints import clip_tokenizer
from exporters.cli import main
from exporters.errors import ExportError
from exporters.sd15 import single_file, weights
from exporters.sd15.command import DEMO, origin
from exporters.sd15.weights import read_checkpoint
from tests.sd15_checkpoints import TEXT, UNET, VAE, write_checkpoint
from tests.single_files import original_state, write_single_file

PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint; nothing changes it."""
    return write_checkpoint(tmp_path_factory.mktemp("single") / "tiny")


@pytest.fixture
def single(made: Path, tmp_path: Path) -> Path:
    return write_single_file(made, tmp_path / "photos.v1.safetensors")


def weights_of(folder: Path, part: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = weights.load(part, read_checkpoint(folder).component(part)).state_dict()
    return state


@pytest.mark.parametrize("part", PARTS)
def test_a_single_file_holds_the_same_networks(made: Path, single: Path, tmp_path: Path, part: str) -> None:
    folder = single_file.unpack(single, lambda: made, tmp_path / "cache")
    ours, theirs = weights_of(folder, part), weights_of(made, part)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_single_file_is_unpacked_once(made: Path, single: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def config() -> Path:
        asked.append(1)
        return made

    first = single_file.unpack(single, config, tmp_path / "cache")
    assert single_file.unpack(single, config, tmp_path / "cache") == first
    assert len(asked) == 1
    state = {name: value + 1 for name, value in original_state(made).items()}
    save_file(state, single)
    assert single_file.unpack(single, config, tmp_path / "cache") != first


def test_a_single_file_in_a_diffusers_folder_has_its_configuration(made: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "whole")
    file = write_single_file(made, folder / "all.safetensors")

    def config() -> Path:
        raise AssertionError("is not asked")

    assert read_checkpoint(single_file.unpack(file, config, tmp_path / "cache"))


def test_a_single_file_as_an_origin(made: Path, single: Path, tmp_path: Path) -> None:
    found = origin(single.name, tmp_path, tmp_path / "cache", config=str(made))
    assert (found.local, found.title, found.name) == (True, "photos.v1", str(single))
    source = found.source((UNET, VAE))
    again = origin(str(single), Path("/"), tmp_path / "cache")  # with the configuration of the first time
    assert again.still(source)
    save_file({name: value + 1 for name, value in original_state(made).items()}, single)
    assert not origin(str(single), Path("/"), tmp_path / "cache", config=str(made)).still(source)
    single.unlink()
    assert origin(str(single), Path("/"), tmp_path / "cache").still(source)
    with pytest.raises(ExportError, match=r"The checkpoint .*photos.v1.safetensors is not there"):
        _ = origin(str(single), Path("/"), tmp_path / "cache").root


def test_a_half_precision_file_without_prefixes_of_the_text_encoder(made: Path, tmp_path: Path) -> None:
    state = {
        name.replace("transformer.text_model.", "transformer."): value.half() if value.is_floating_point() else value
        for name, value in original_state(made).items()
    }
    save_file(state, tmp_path / "half.safetensors")
    folder = single_file.unpack(tmp_path / "half.safetensors", lambda: made, tmp_path / "cache")
    theirs = weights_of(made, "text_encoder")
    for name, value in weights_of(folder, "text_encoder").items():
        assert torch.equal(value, theirs[name].half().float())


WRONG: list[tuple[str, dict[str, torch.Tensor], str]] = [
    ("LoRA", {"lora_unet_down_blocks_0.lora_up.weight": torch.ones(1)}, "it looks like a LoRA"),
    ("SDXL", {"conditioner.embedders.0.x": torch.ones(1), "model.diffusion_model.x": torch.ones(1)}, "Diffusion XL"),
    ("SD2", {"cond_stage_model.model.x": torch.ones(1), "model.diffusion_model.x": torch.ones(1)}, "Diffusion 2"),
    ("UNet", {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}, "it has no VAE and no text encoder"),
    ("embedding", {"emb_params": torch.ones(1)}, "it has no UNet and no VAE and no text encoder"),
]


@pytest.mark.parametrize(("state", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, state: dict[str, torch.Tensor], words: str) -> None:
    file = tmp_path / "other.safetensors"
    save_file(state, file)
    answer = CliRunner().invoke(main, ["sd15", "--checkpoint", str(file), "--output", str(tmp_path / "models")])
    assert isinstance(answer.exception, ExportError)
    told = str(answer.exception)
    assert told.startswith("other.safetensors is no checkpoint of the Stable Diffusion 1.5 kind: ")
    assert words in told


@pytest.mark.parametrize(
    "change", [lambda data: b"", lambda data: b"garbage" * 50, lambda data: data[: len(data) // 2]]
)
def test_a_damaged_file_is_refused(single: Path, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    single.write_bytes(change(single.read_bytes()))
    with pytest.raises(ExportError, match=r"photos.v1.safetensors cannot be read as safetensors: "):
        single_file.unpack(single, lambda: tmp_path, tmp_path / "cache")
    pickle = tmp_path / "old.ckpt"
    pickle.write_bytes(b"PK")
    with pytest.raises(ExportError, match=r"old.ckpt is no .safetensors file"):
        single_file.unpack(pickle, lambda: tmp_path, tmp_path / "cache")


def test_a_file_of_other_widths_is_refused_when_it_is_read(made: Path, tmp_path: Path) -> None:
    state = original_state(made)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    state[name] = torch.zeros(8, 4, 3, 3)
    save_file(state, tmp_path / "wide.safetensors")
    folder = single_file.unpack(tmp_path / "wide.safetensors", lambda: made, tmp_path / "cache")
    with pytest.raises(ExportError, match=r"UNet2DConditionModel|of another network"):
        weights_of(folder, "unet")


INDICES = {
    "plain": ("", "{stem}.safetensors.index.json"),
    "diffusers": (".fp16", "{stem}.safetensors.index.fp16.json"),
    "behind": (".fp16", "{stem}.safetensors.fp16.index.json"),
    "before": (".fp16", "{stem}.fp16.safetensors.index.json"),
}


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("file", [UNET, TEXT])
def test_lists_of_weights_under_any_name(tmp_path: Path, file: str, name: str, marked: bool) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    part, _, weight = file.partition("/")
    expected = weights_of(folder, part)
    variant, index = INDICES[name]
    stem = weight.removesuffix(".safetensors")
    state = load_file(folder / file)
    (folder / file).unlink()
    names = sorted(state)
    halves = {f"{stem}{variant}-0000{k + 1}-of-00002.safetensors": names[k::2] for k in range(2)}
    for shard, held in halves.items():
        save_file({key: state[key] for key in held}, folder / part / shard, {"format": "pt"})
    weight_map = {key: shard for shard, held in halves.items() for key in held}
    content = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    encoding = "utf-8-sig" if marked else "utf-8"
    (folder / part / index.format(stem=stem)).write_text(json.dumps(content), encoding=encoding)
    found = weights_of(folder, part)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_byte_order_marks_in_every_json_file(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    expected = {part: weights_of(folder, part) for part in PARTS}
    words = clip_tokenizer.convert(folder, longest=77)
    marked = [path for path in folder.rglob("*.json") if "index" not in path.name or path.name == "model_index.json"]
    assert len(marked) > 5
    for path in marked:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for part in PARTS:
        found = weights_of(folder, part)
        assert all(torch.equal(found[key], value) for key, value in expected[part].items())
    assert clip_tokenizer.convert(folder, longest=77) == words
    assert all(path.read_bytes().startswith(b"\xef\xbb\xbf") for path in marked)


def test_a_file_of_the_demos_widths_has_the_demos_configuration(made: Path, single: Path, tmp_path: Path) -> None:
    assert single_file.fits(single, made)
    assert not single_file.fits(single, DEMO)
    with pytest.raises(ExportError, match=r"photos.v1.safetensors holds weights only; .* --config\."):
        _ = origin(str(single), tmp_path, tmp_path / "cache", config=str(tmp_path / "not-there")).root
