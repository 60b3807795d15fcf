"""Checkpoints as people have them: in one file, with other names of lists, with byte order marks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from exporters.checkpoints import clip_tokenizer
from exporters.checkpoints.origin import Origin
from exporters.checkpoints.single_file import unpack
from exporters.checkpoints.single_file.unpack import Choices
from exporters.cli import main
from exporters.errors import ExportError
from exporters.sd15 import weights
from exporters.sd15.command import origin
from exporters.sd15.weights import read_checkpoint
from tests.sd15_checkpoints import TEXT, UNET, VAE, edit_json, write_checkpoint
from tests.single_files import original_state, write_single_file

PARTS = ("unet", "vae", "text_encoder")
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint; nothing changes it."""
    return write_checkpoint(tmp_path_factory.mktemp("single") / "tiny")


@pytest.fixture
def single(made: Path, tmp_path: Path) -> Path:
    return write_single_file(made, tmp_path / "photos.v1.safetensors")


def opened(file: Path, config: Path | None = None, prediction: str | None = None) -> Origin:
    """A single file as its command reads it, with a cache beside it."""
    choices = Choices(config=str(config) if config else None, prediction=prediction)
    return origin(str(file), Path("/"), file.parent / "cache", choices)


def weights_of(folder: Path, part: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = weights.load(part, read_checkpoint(folder).component(part)).state_dict()
    return state


def scheduler_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    return found


@pytest.mark.parametrize("part", PARTS)
def test_a_single_file_holds_the_same_networks(made: Path, single: Path, part: str) -> None:
    folder = opened(single, made).root
    ours, theirs = weights_of(folder, part), weights_of(made, part)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    if part == "unet":  # what the shapes tell is what the folder says
        derived = json.loads((folder / part / "config.json").read_text())
        assert derived == json.loads((made / part / "config.json").read_text())


def test_a_single_file_is_unpacked_once(made: Path, single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(single, made).root
    before = weights_of(first, "vae")
    with monkeypatch.context() as patch:
        patch.setattr(unpack, "_make", lambda *_: pytest.fail("is unpacked again"))
        assert opened(single, made).root == opened(single).root == first
    save_file({name: value + 1 for name, value in original_state(made).items()}, single)
    assert opened(single).root == first, "in place of what the file was before, with the same configuration"
    after = weights_of(first, "vae")
    assert all(torch.equal(after[name], value + 1) for name, value in before.items())
    assert {path.name for path in first.parent.iterdir()} == {first.name, ".lock"}


def test_a_changed_configuration_is_read_again(made: Path, single: Path, tmp_path: Path) -> None:
    config = write_checkpoint(tmp_path / "config")
    assert "prediction_type" in scheduler_of(opened(single, config).root)
    edit_json(config / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert scheduler_of(opened(single).root)["prediction_type"] == "v_prediction"


def test_a_single_file_in_a_diffusers_folder_has_its_configuration(made: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "whole")
    file = write_single_file(made, folder / "all.safetensors")
    assert read_checkpoint(opened(file).root)
    edit_json(folder / "model_index.json", _class_name="FluxPipeline")
    other = write_single_file(made, folder / "other.safetensors")
    with pytest.raises(ExportError, match=r"other.safetensors: block_out_channels of its UNet is \[16, 16, 32\]"):
        _ = opened(other).root


def test_a_single_file_as_an_origin(made: Path, single: Path, tmp_path: Path) -> None:
    found = origin(single.name, tmp_path, tmp_path / "cache", Choices(config=str(made)))
    assert (found.local, found.title, found.name) == (True, "photos.v1", str(single))
    source = found.source((UNET, VAE))
    assert opened(single).still(source), "with the configuration of the first time"
    single.touch()
    assert opened(single).still(source), "the same content"
    save_file({name: value + 1 for name, value in original_state(made).items()}, single)
    assert not opened(single).still(source)
    single.unlink()
    assert opened(single).still(source)
    with pytest.raises(ExportError, match=r"The checkpoint .*photos.v1.safetensors is not there"):
        _ = opened(single).root


def test_choices_for_a_folder_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"tiny is no single file; .* takes neither --config nor --prediction-type"):
        origin(str(made), Path("/"), tmp_path, Choices(prediction="epsilon"))


def test_a_half_precision_file_without_prefixes_of_the_text_encoder(made: Path, tmp_path: Path) -> None:
    state = {
        name.replace("transformer.text_model.", "transformer."): value.half() if value.is_floating_point() else value
        for name, value in original_state(made).items()
    }
    save_file(state, tmp_path / "half.safetensors")
    folder = opened(tmp_path / "half.safetensors", made).root
    assert {value.dtype for value in load_file(folder / UNET).values()} == {torch.float16}
    for part in PARTS:
        theirs = weights_of(made, part)
        for name, value in weights_of(folder, part).items():
            assert torch.equal(value, theirs[name].half().float())


# --- what a UNet predicts

PREDICTIONS: list[tuple[str, dict[str, str], str | None, str]] = [
    ("nothing", {}, None, "epsilon"),
    ("metadata", {"modelspec.prediction_type": "v"}, None, "v_prediction"),
    ("option", {"modelspec.prediction_type": "v"}, "epsilon", "epsilon"),
    ("unknown", {"modelspec.prediction_type": "velocity"}, "v_prediction", "v_prediction"),
]


@pytest.mark.parametrize(
    ("metadata", "prediction", "expected"), [case[1:] for case in PREDICTIONS], ids=[case[0] for case in PREDICTIONS]
)
def test_prediction_type_of_a_file(
    made: Path, tmp_path: Path, metadata: dict[str, str], prediction: str | None, expected: str
) -> None:
    file = write_single_file(made, tmp_path / "photos.safetensors", metadata=metadata)
    assert scheduler_of(opened(file, made, prediction).root)["prediction_type"] == expected
    assert scheduler_of(opened(file).root)["prediction_type"] == expected, "and it stays so"


def test_prediction_type_by_the_marks_of_web_uis(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "photos.safetensors"
    save_file({**original_state(made), "v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}, file)
    found = scheduler_of(opened(file, made).root)
    assert (found["prediction_type"], found["rescale_betas_zero_snr"]) == ("v_prediction", True)


def test_unknown_prediction_type_is_refused(made: Path, tmp_path: Path) -> None:
    file = write_single_file(made, tmp_path / "p.safetensors", metadata={"modelspec.prediction_type": "velocity"})
    with pytest.raises(ExportError, match=r"p.safetensors: modelspec.prediction_type is 'velocity', .*--prediction-ty"):
        _ = opened(file, made).root


# --- files that are refused

WRONG: list[tuple[str, dict[str, torch.Tensor], str]] = [
    ("LoRA", {"lora_unet_down_blocks_0.lora_up.weight": torch.ones(1)}, "it looks like a LoRA"),
    ("SDXL", {"conditioner.embedders.0.x": torch.ones(1), "model.diffusion_model.x": torch.ones(1)}, "Diffusion XL"),
    ("SD2", {"cond_stage_model.model.x": torch.ones(1), "model.diffusion_model.x": torch.ones(1)}, "Diffusion 2"),
    ("UNet", {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}, "it has no VAE and no text encoder"),
    ("no VAE", {"cond_stage_model.transformer.x": torch.ones(1), CONV_IN: torch.ones(1, 4)}, "it has no VAE."),
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
    assert not (tmp_path / "models").exists()


CHANGES: list[tuple[str, dict[str, torch.Tensor | None], str]] = [
    ("pix2pix", {CONV_IN: torch.zeros(16, 8, 3, 3)}, r"of the InstructPix2Pix kind, .* 8 channels, expected 4, or 9"),
    ("Playground", {"edm_mean": torch.zeros(1)}, r"of the Playground 2.5 kind"),
    ("NaN", {"first_stage_model.quant_conv.bias": torch.full((8,), torch.nan)}, r"quant_conv.bias holds NaN or inf"),
    ("infinity", {CONV_IN: torch.full((16, 4, 3, 3), torch.inf)}, r"input_blocks.0.0.weight holds NaN or infinity"),
    ("a gap", {"model.diffusion_model.out.2.weight": None}, r"its UNet has no model.diffusion_model.out.2.weight"),
    ("odd shapes", {CONV_IN: torch.zeros(16, 4, 3, 3), "model.diffusion_model.out.2.weight": torch.tensor(1.0)},
     "the weights of its UNet have unusual shapes"),
    ("other widths", {"model.diffusion_model.input_blocks.1.0.out_layers.3.weight": torch.zeros(8, 8, 3, 3)},
     r"block_out_channels of its UNet is \[8, 16, 32\], and \[16, 16, 32\] for tiny\."),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_file_that_cannot_be_exported_writes_nothing(
    made: Path, tmp_path: Path, changes: dict[str, torch.Tensor | None], words: str
) -> None:
    state = {**original_state(made), **changes}
    file = tmp_path / "photos.safetensors"
    save_file({name: value for name, value in state.items() if value is not None}, file)
    places = ["--output", str(tmp_path / "models"), "--cache", str(tmp_path / "cache")]
    answer = CliRunner().invoke(main, ["export", str(file), "--config", str(made), *places])
    assert isinstance(answer.exception, ExportError)
    with pytest.raises(ExportError, match=words):
        raise answer.exception
    assert not list((tmp_path / "models").glob("*/*"))
    assert {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()} <= {".lock"}


def test_a_missing_weight_is_found_when_the_network_is_read(made: Path, tmp_path: Path) -> None:
    state = original_state(made)
    del state["model.diffusion_model.middle_block.0.in_layers.0.weight"]
    save_file(state, tmp_path / "photos.safetensors")
    with pytest.raises(ExportError, match=r"photos/unet/.* of another network: 1 are missing, mid_block"):
        weights_of(opened(tmp_path / "photos.safetensors", made).root, "unet")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"garbage" * 50,
        lambda data: data[: len(data) // 2],
        lambda data: (1 << 40).to_bytes(8, "little") + data[8:],
    ],
    ids=["empty", "garbage", "truncated", "huge header"],
)
def test_a_damaged_file_is_refused(single: Path, change: Callable[[bytes], bytes]) -> None:
    single.write_bytes(change(single.read_bytes()))
    with pytest.raises(ExportError, match=r"photos.v1.safetensors cannot be read as safetensors: "):
        _ = opened(single).root


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    pickle = tmp_path / "old.ckpt"
    pickle.write_bytes(b"PK")
    with pytest.raises(ExportError, match=r"old.ckpt is no .safetensors file: pickles \(.ckpt\) can run code"):
        _ = opened(pickle).root


def test_a_full_disk_is_named(made: Path, single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(unpack.shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(ExportError, match=r"photos.v1.safetensors needs .* has 1.0 kB left; .* with --cache"):
        _ = opened(single, made).root


def test_a_cache_that_cannot_be_written_is_named(made: Path, single: Path) -> None:
    (single.parent / "cache").write_text("a file")
    with pytest.raises(ExportError, match=r"photos.v1.safetensors could not be unpacked into .*cache.*: Not a dir"):
        _ = opened(single, made).root


def test_two_processes_unpack_a_file_once(made: Path, single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[str] = []
    make = unpack._make

    def slow(*given: Any) -> None:
        unpacked.append("begun")
        time.sleep(0.5)
        make(*given)

    monkeypatch.setattr(unpack, "_make", slow)
    with ThreadPoolExecutor(2) as pool:  # locks of two open files exclude each other in one process, too
        roots = set(pool.map(lambda _: opened(single, made).root, range(2)))
    assert (len(roots), unpacked) == (1, ["begun"])
    assert read_checkpoint(roots.pop())


def test_leftovers_of_a_killed_run_go(made: Path, single: Path) -> None:
    parent = opened(single, made).root.parent
    (parent / ".unpacking-left").mkdir()
    (parent / ".unpacking-left" / "half").write_bytes(b"x")
    single.touch()
    _ = opened(single).root
    assert not (parent / ".unpacking-left").exists()


def test_configuration_that_is_not_there(single: Path, made: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"The configuration of photos.v1.safetensors cannot be had: .* --config\."):
        _ = opened(single, tmp_path / "not-there").root
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match=r"empty .* has no model_index.json"):
        _ = opened(single, tmp_path / "empty").root
    other = write_checkpoint(tmp_path / "other")
    edit_json(other / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(ExportError, match=r"other is no configuration for a checkpoint of .*: .* says FluxPipeline"):
        _ = opened(single, other).root


# --- folders

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
