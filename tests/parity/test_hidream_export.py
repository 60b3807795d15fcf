"""The HiDream exporter: Llama beside the checkpoint, fp16, variants, weights and files that do not fit.

What it exports in fp32 from one checkpoint is run by tests/triton/test_hidream_model.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from darkroom.diffusion.schedulers import make_scheduler
from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream import options as start_options
from darkroom.pipelines.hidream.checkpoint import HidreamCheckpointInfo
from darkroom.pipelines.hidream.prompts import load_prompt_tokenizers
from darkroom.pipelines.hidream.transformer import load_transformer
from darkroom.settings import Settings
from exporters import manifest
from exporters.checkpoints.origin import Origin
from exporters.config import Placement, render
from exporters.errors import ExportError
from exporters.export import ModelExport, export_network, up_to_date
from exporters.hidream import command, pipeline, transformer, weights
from exporters.hidream import export as hidream_export
from exporters.hidream.export import CheckpointSources
from exporters.tasks import ExportTask, run_task, run_tasks
from tests import tiny_hidream
from tests.sd15_checkpoints import edit_json

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def _fetch(name: str) -> Path:
    raise ExportError(f"{name} is fetched")


def _silent(stage: str) -> None:
    pass


def _origin(folder: Path) -> Origin:
    return Origin.of(str(folder), folder.parent, _fetch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with Llama inside."""
    folder = tmp_path_factory.mktemp("whole") / "tiny"
    tiny_hidream.write_checkpoint(folder)
    return folder


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    """A copy to do something to."""
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


@pytest.fixture
def parted(checkpoint: Path, tmp_path: Path) -> CheckpointSources:
    """The checkpoint as it lies on the hub, and Llama in a folder of its own."""
    llama = tmp_path / "llama"
    shutil.move(checkpoint / "text_encoder_4", llama)
    for file in (checkpoint / "tokenizer_4").iterdir():
        shutil.move(file, llama / file.name)
    return CheckpointSources(checkpoint=_origin(checkpoint), llama=_origin(llama))


def _pipeline(sources: CheckpointSources, repository: Path, variant: str | None = None) -> ExportTask:
    """The export of pipeline.json and the tokenizers."""
    return command.family_tasks(sources, repository, variant=variant)[-1]


def _exported(task: ExportTask) -> Path:
    """The folder of an export that is done now."""
    run_task(task, force=True, quiet=True)
    return task.folder


def test_llama_may_lie_elsewhere(parted: CheckpointSources, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    wanted = ModelExport(
        spec=networks.LLAMA, repository=repository, checkpoint=parted.of(weights.LLAMA), precision="fp16"
    )
    made = export_network(wanted, hidream_export.recipe(wanted, parted), _silent)
    assert (made.precision, made.source) == ("fp16", str(tmp_path / "llama"))
    assert 1e-6 < made.max_error < 5e-3, "rounded to 11 bits, and no more"
    assert up_to_date(wanted, hidream_export.current_hash()) is not None
    task = _pipeline(parted, repository)
    assert set(manifest.read(_exported(task)).sources) == {"checkpoint", "llama"}  # type: ignore[union-attr]
    assert task.up_to_date() is not None
    edit_json(tmp_path / "llama" / "tokenizer_config.json", model_max_length=99)
    assert task.up_to_date() is None


def test_t5_keeps_what_overflows_in_fp32(whole: Path, tmp_path: Path) -> None:
    sources = CheckpointSources(checkpoint=_origin(whole))
    wanted = ModelExport(spec=networks.T5, repository=tmp_path, checkpoint=sources.checkpoint, precision="fp16")
    made = export_network(wanted, hidream_export.recipe(wanted, sources), _silent)
    assert 1e-6 < made.max_error < 5e-3
    encoder = weights.load(weights.T5, sources.read().parts[weights.T5])
    from exporters.graphs.precision import halved

    kinds = {name.rpartition(".")[0].rpartition(".")[2]: p.dtype for name, p in halved(encoder).named_parameters()}
    assert kinds.pop("wo") == torch.float32
    assert set(kinds.values()) == {torch.float16}


@pytest.mark.parametrize(
    ("folder", "variant", "expected"),
    [
        ("tiny", None, ("full", "FlowMatchEulerDiscreteScheduler", 3.0)),
        ("tiny", "dev", ("dev", "FlowMatchLCMScheduler", 6.0)),
        ("HiDream-I1-Fast", None, ("fast", "FlowMatchLCMScheduler", 3.0)),
        ("HiDream-I1-Full", None, ("full", "UniPCMultistepScheduler", 3.0)),
        ("HiDream-I1-Fast", "full", ("full", "UniPCMultistepScheduler", 3.0)),
    ],
)
def test_variants(
    checkpoint: Path, tmp_path: Path, folder: str, variant: str | None, expected: tuple[str, str, float]
) -> None:
    if folder != checkpoint.name:
        checkpoint = checkpoint.rename(tmp_path / folder)
    repository = tmp_path / "repository"
    found = HidreamCheckpointInfo.read(
        _exported(_pipeline(CheckpointSources(checkpoint=_origin(checkpoint)), repository, variant))
    )
    shift = found.scheduler.get("shift", found.scheduler.get("flow_shift"))
    assert (found.variant, found.scheduler["_class_name"], shift) == expected
    assert (found.side, found.max_tokens) == (64, 64)
    for name in (None, "flow_euler", "flow_unipc", "flow_flash"):
        config = make_scheduler(name, found.scheduler).config
        assert config.get("flow_shift", config.get("shift")) == expected[2], "whatever class it came from"
    other = _pipeline(CheckpointSources(checkpoint=_origin(checkpoint)), repository, "dev")
    assert (other.up_to_date() is None) == (variant != "dev")


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("/data/HiDream-I1-Dev", "dev"),
        ("HiDream-ai/HiDream-I1-Fast", "fast"),
        ("HiDream-ai/HiDream-I1-Dev@main", "dev"),
        ("/cache/models--HiDream-ai--HiDream-I1-Dev/snapshots/0123abcd", "dev"),
        ("/my-dev/tiny", None),
    ],
)
def test_a_variant_is_found_in_the_name(name: str, variant: str | None) -> None:
    assert pipeline.named_variant(Origin(name=name, fetch=Path)) == variant


def test_a_link_is_called_as_it_is(tmp_path: Path) -> None:
    """A folder of a cache is called by a hash, and the link to it as the checkpoint."""
    (tmp_path / "0123abcd").mkdir()
    (tmp_path / "HiDream-I1-Dev").symlink_to("0123abcd")
    origin = Origin.of("HiDream-I1-Dev", tmp_path, Path)
    assert (Path(origin.name).name, pipeline.named_variant(origin)) == ("HiDream-I1-Dev", "dev")
    options = {"model_path": "HiDream-I1-Dev", "extra_model_path": None, "project_path": tmp_path}
    options |= {"devices": None, "device_count": None, "device_type": None}
    assert start_options.settings(options)["HIDREAM_CHECKPOINT"] == origin.name


def test_what_is_computed_stays_in_fp32(whole: Path) -> None:
    """Llama's rotary frequencies: in fp16 the angle of a late token would be off by hundredths."""
    from exporters.graphs.precision import halved

    encoder = weights.load(weights.LLAMA, CheckpointSources(checkpoint=_origin(whole)).read().parts[weights.LLAMA])
    exact = {name: buffer.clone() for name, buffer in encoder.named_buffers() if name.endswith("inv_freq")}
    assert exact
    kinds = {name: buffer for name, buffer in halved(encoder).named_buffers() if name in exact}
    for name, buffer in kinds.items():
        assert buffer.dtype == torch.float32
        assert torch.equal(buffer, exact[name])


def test_prompts_are_read_as_transformers_reads_them(whole: Path, tmp_path: Path) -> None:
    """Beside what the exporter compares: what a token too many does, and other lengths."""
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast, T5Tokenizer

    found = tiny_hidream.exported(whole, tmp_path)
    readers = load_prompt_tokenizers(tmp_path / networks.PIPELINE.name / "1", found)
    kinds = {"clip_l": CLIPTokenizer, "t5": T5Tokenizer, "llama": PreTrainedTokenizerFast}
    texts = ["", "a cat", "a cat on the left " * 60, "<|endoftext|> </s> <pad>", "été 猫"]
    for name, kind in kinds.items():
        original: Any = kind.from_pretrained(whole / weights.TOKENIZERS[name][0])
        original.pad_token = original.pad_token or original.eos_token
        for length in (16, 31, 218):
            theirs = original(texts, padding="max_length", max_length=length, truncation=True)
            ours = readers[name].read(texts, length)
            assert ours["input_ids"].tolist() == theirs["input_ids"], (name, length)
            assert ours["attention_mask"].tolist() == theirs["attention_mask"], (name, length)
            assert ours["input_ids"].dtype == np.int64


def _transformer(checkpoint: Path, repository: Path) -> tuple[ModelExport, CheckpointSources]:
    sources = CheckpointSources(checkpoint=_origin(checkpoint))
    wanted = ModelExport(spec=networks.TRANSFORMER, repository=repository, checkpoint=sources.checkpoint)
    return wanted, sources


def test_transformer_in_several_files(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint / WEIGHTS)
    (checkpoint / WEIGHTS).unlink()
    names = sorted(tensors)
    halves = {"part-1.safetensors": names[::2], "part-2.safetensors": names[1::2]}
    for file, keys in halves.items():
        save_file({key: tensors[key] for key in keys}, checkpoint / "transformer" / file)
    index = {"metadata": {}, "weight_map": {key: file for file, keys in halves.items() for key in keys}}
    (checkpoint / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    wanted, sources = _transformer(checkpoint, tmp_path / "r")
    transformer.export(wanted, sources, _silent)
    assert {path.name for path in wanted.folder.iterdir()} == {"config.json", "export.json", *halves}
    model = load_transformer(wanted.folder, device=torch.device("cpu"), dtype=torch.float32)
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    assert up_to_date(wanted, transformer.current_hash()) is not None


def test_another_transformer_takes_the_place_of_the_old_one(whole: Path, checkpoint: Path, tmp_path: Path) -> None:
    wanted, sources = _transformer(whole, tmp_path / "r")
    transformer.export(wanted, sources, _silent)
    (wanted.folder / "left.safetensors").write_bytes(b"of another checkpoint")
    (checkpoint / WEIGHTS).chmod(0o644)
    transformer.export(*_transformer(checkpoint, tmp_path / "r"), _silent)
    assert [path.name for path in wanted.folder.glob("*.safetensors")] == [Path(WEIGHTS).name]
    assert (wanted.folder / Path(WEIGHTS).name).samefile(checkpoint / WEIGHTS), "linked, not copied"


def test_weights_of_another_transformer_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint / WEIGHTS)
    tensors["x_embedder.proj.weight"] = tensors["x_embedder.proj.weight"][:-1].contiguous()
    save_file(tensors, checkpoint / WEIGHTS)
    wanted, sources = _transformer(checkpoint, tmp_path / "r")
    with pytest.raises(ExportError, match=r"x_embedder\.proj\.weight has the shape \(31, 64\), expected \(32, 64\)"):
        transformer.export(wanted, sources, _silent)
    assert not wanted.folder.exists()


def _without_llama(root: Path) -> None:
    shutil.rmtree(root / "text_encoder_4")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without_llama, "has no text_encoder_4: name the Llama"),
        (lambda root: (root / "model_index.json").unlink(), "has no model_index.json"),
        (lambda root: edit_json(root / "model_index.json", transformer=["diffusers", "X"]), "no HiDream-I1 checkpoint"),
        (lambda root: edit_json(root / "vae" / "config.json", latent_channels=4), "latent_channels is 4, expected 16"),
        (lambda root: edit_json(root / "transformer" / "config.json", text_emb_dim=9), "text_emb_dim is 9"),
        (lambda root: edit_json(root / "transformer" / "config.json", llama_layers=[0, 7]), "and Llama has 3"),
        (
            lambda root: edit_json(root / "text_encoder_3" / "config.json", d_model=64),
            r"caption_channels is \[32, 32\]",
        ),
        (lambda root: (root / WEIGHTS).unlink(), "has no weights transformer/"),
    ],
)
def test_unfit_checkpoints_are_one_sentence(checkpoint: Path, damage: Any, words: str) -> None:
    damage(checkpoint)
    with pytest.raises(ExportError, match=words):
        weights.read_checkpoint(checkpoint, None)


def test_a_scheduler_of_another_kind_asks_for_a_variant(checkpoint: Path) -> None:
    edit_json(checkpoint / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler")
    with pytest.raises(ExportError, match="choose a --variant"):
        pipeline.sampling_of(_origin(checkpoint), None)
    assert pipeline.sampling_of(_origin(checkpoint), "fast")[0] == "fast"


def test_a_failed_export_leaves_no_model_behind(checkpoint: Path, tmp_path: Path) -> None:
    _without_llama(checkpoint)
    with pytest.raises(ExportError, match="text_encoder_4"):
        run_tasks(command.family_tasks(CheckpointSources(checkpoint=_origin(checkpoint)), tmp_path / "r"), quiet=True)
    assert not list((tmp_path / "r").glob("*"))


def test_prepare_exports_the_demo_unless_another_checkpoint_is_there(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    demo = tmp_path / "demo"
    monkeypatch.setenv("HIDREAM_CHECKPOINT", str(demo))
    settings = Settings(model_repository=tmp_path / "r", num_gpus_to_use=0)
    own = _pipeline(CheckpointSources(checkpoint=_origin(checkpoint)), tmp_path / "r")
    monkeypatch.setattr(command, "DEMO", demo)
    monkeypatch.setattr(command, "family_tasks", lambda sources, *_, **__: asked.append(sources.checkpoint.name) or [])
    command.prepare(settings, tmp_path / "r")
    assert asked == [], "there is no demo"
    shutil.copytree(checkpoint, demo)
    command.prepare(settings, tmp_path / "r")
    assert asked == [str(demo)]
    _exported(own)
    command.prepare(settings, tmp_path / "r")
    assert len(asked) == 1, "the user's own stays"
    monkeypatch.setenv("HIDREAM_CHECKPOINT", str(checkpoint))
    command.prepare(Settings(model_repository=tmp_path / "r", num_gpus_to_use=0), tmp_path / "r")
    assert asked[1:] == [str(checkpoint)], "which is asked for by its name"


def test_prepare_exports_what_the_settings_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its encoders fail at once, so that only names are at stake: a Llama of its own, and a checkpoint that is none."""
    monkeypatch.setenv("HIDREAM_CHECKPOINT", str(checkpoint))
    monkeypatch.setenv("HIDREAM_LLAMA", str(tmp_path / "llama"))
    settings = Settings(model_repository=tmp_path / "r", num_gpus_to_use=0)
    (tmp_path / "llama").mkdir()
    with pytest.raises(ExportError, match="llama"):
        command.prepare(settings, tmp_path / "r")
    monkeypatch.setenv("HIDREAM_CHECKPOINT", "/nowhere")
    settings = Settings(model_repository=tmp_path / "r", num_gpus_to_use=0)
    with pytest.raises(ExportError, match="nowhere"):
        command.prepare(settings, tmp_path / "r")
    assert not list((tmp_path / "r").glob("*"))


def test_prepare_leaves_what_is_up_to_date_and_mends_the_transformers_config(
    hidream_repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "r"
    shutil.copytree(hidream_repository, repository)
    config = repository / networks.TRANSFORMER.name / "config.pbtxt"
    config.write_text(render(networks.TRANSFORMER, Placement(gpus=(0, 1))))
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.is_file()}
    monkeypatch.setenv("HIDREAM_CHECKPOINT", str(hidream_repository.parent / "checkpoint"))
    for update in ({}, {"HIDREAM_DEVICES": "0,1"}):
        for name, value in update.items():
            monkeypatch.setenv(name, value)
        command.prepare(Settings(model_repository=repository, num_gpus_to_use=0), repository)
        after = {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.is_file()}
        assert {path for path in after if after[path] != before.get(path)} == ({config} if update else set())
    assert capsys.readouterr().out == "", "no export, no word"
    assert config.read_text() == render(networks.TRANSFORMER, Placement(gpus=(0,)))
