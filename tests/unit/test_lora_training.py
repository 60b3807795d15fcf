"""LoRA training on tiny checkpoints: what is learnt, the file, what is refused."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from darkroom.diffusion.lora.pack import LoraPack
from darkroom.diffusion.lora.read import read
from darkroom.diffusion.lora_targets import targets_of
from darkroom.errors import Conflict, InvalidInput
from exporters.graphs.lora import layout_of
from exporters.lora import LoraPart
from exporters.onnx_export import quiet
from tests import tiny_sdxl
from tests.lora_trainings import WRITERS, losses_of, run_of, trained, write_checkpoints, write_images
from tests.sd15_checkpoints import edit_json
from tests.single_files import original_state, original_xl_state, write_single_file
from training.lora.family import families, find_checkpoint
from training.lora.run import LoraRun, run_training
from training.lora.trainer import Stopped

ATTENTION = LoraPart(component="unet", attribute="unet", within=r".*\.attentions\..*")
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A training sets how many threads its process uses."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("session"))


def read_back(run: LoraRun) -> LoraPack:
    """Our own reader on the file, for the UNet that it was trained on."""
    family, root = find_checkpoint(run.checkpoint)
    targets = targets_of("tiny", [layout_of(family.load(root, "unet"), ATTENTION)])
    return read(run.output.read_bytes(), targets)


def test_training_families_are_found_by_folder() -> None:
    assert set(families()) == set(WRITERS)


@pytest.mark.parametrize("name", WRITERS)
def test_training_lowers_the_loss_of_the_same_noise(
    tmp_path: Path, images: Path, checkpoints: dict[str, Path], name: str
) -> None:
    """Measured on noise that no step has seen: the LoRA is taken out of the file and put into diffusers' UNet."""
    run = run_of(tmp_path, images, checkpoints[name], steps=120, rank=8, learning_rate=1e-2)
    said = trained(run)
    assert len(losses_of(said)) == 120
    before, after = held_out_loss(run, with_lora=False), held_out_loss(run, with_lora=True)
    assert after < 0.97 * before, (before, after)


def held_out_loss(run: LoraRun, *, with_lora: bool) -> float:
    from training.lora.cache import MEAN, SampleCache
    from training.lora.family import stacked
    from training.lora.objective import Objective, generator_of
    from training.lora.plan import prepare

    family, root = find_checkpoint(run.checkpoint)
    plan = prepare(run.state, run.images, run.options, checkpoint=run.checkpoint, root=root, side=64, threads=1)
    unet, objective, cache = family.load(root, "unet"), Objective(root), SampleCache(run.state, plan)
    if with_lora:
        unet.load_lora_adapter(str(run.output), prefix="unet")
    total = 0.0
    for step in range(40):
        batch = stacked([cache.read(index) for index in plan.batch(step)])
        noisy, target, steps = objective.noisy(batch[MEAN], generator_of(1_000, step))
        with torch.no_grad():
            predicted = unet(noisy, steps, **family.arguments(batch), return_dict=False)[0]
        total += float(objective.loss(predicted, target, steps))
    return total / 40


def test_training_that_is_stopped_saves_its_state(tmp_path: Path, images: Path, checkpoints: dict[str, Path]) -> None:
    run, stop = run_of(tmp_path, images, checkpoints["sd15"], steps=8), threading.Event()
    said: list[dict[str, Any]] = []

    def heard(line: dict[str, Any]) -> None:
        said.append(line)
        if line.get("step") == 3:
            stop.set()

    with pytest.raises(Stopped):
        run_training(run, heard, stop)
    assert len(losses_of(said)) == 3
    assert not run.output.exists()
    rest = losses_of(trained(run))
    assert len(rest) == 5
    undisturbed = run_of(tmp_path / "other", images, checkpoints["sd15"], steps=8)
    assert losses_of(trained(undisturbed)) == losses_of(said) + rest


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("alpha", [None, 1.0])
def test_trained_file_acts_in_diffusers_and_in_our_reader_as_in_training(
    tmp_path: Path, images: Path, checkpoints: dict[str, Path], name: str, alpha: float | None
) -> None:
    """With the scale of alpha: the UNet of `load_lora_weights` answers as the one with our reader's matrices merged."""
    run = run_of(tmp_path, images, checkpoints[name], steps=6, rank=4, alpha=alpha, learning_rate=1e-2)
    trained(run)
    pack = read_back(run)
    tensors = load_file(run.output)
    assert (pack.applied, pack.total, pack.unused, pack.warnings) == (len(tensors), len(tensors), (), ())
    family, root = find_checkpoint(run.checkpoint)
    plain = family.load(root, "unet")
    attention = [key for key, _ in plain.named_modules() if key.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))]
    assert set(pack.layers["unet"]) == set(attention)
    merged = family.load(root, "unet")
    with torch.no_grad():
        for module, layer in pack.layers["unet"].items():
            merged.get_submodule(module).weight += torch.from_numpy(layer.delta().copy())
            ups, downs = (tensors[f"unet.{module}.lora_{one}.weight"] for one in "BA")
            scale = (4.0 if alpha is None else alpha) / 4
            np.testing.assert_allclose(layer.delta(), (scale * ups @ downs).numpy(), atol=1e-6)
    pipeline = make_pipeline(name, root)
    pipeline.load_lora_weights(str(run.output))
    theirs, ours, without = (answer(unet, name) for unet in (pipeline.unet, merged, plain))
    assert torch.allclose(theirs, ours, atol=1e-5)
    assert (theirs - without).abs().max() > 1e-3


def make_pipeline(name: str, root: Path) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    with quiet():
        if name == "sdxl":
            return StableDiffusionXLPipeline.from_pretrained(root, add_watermarker=False)
        return StableDiffusionPipeline.from_pretrained(root, safety_checker=None)


def answer(unet: Any, name: str) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=random)
    states = torch.randn(2, 77, unet.config.cross_attention_dim, generator=random)
    added = {"text_embeds": torch.randn(2, tiny_sdxl.PROJECTION, generator=random), "time_ids": torch.ones(2, 6)}
    more = {"added_cond_kwargs": added} if name == "sdxl" else {}
    with torch.no_grad():
        made: torch.Tensor = unet(latents, torch.tensor([500, 20]), states, **more, return_dict=False)[0]
    return made


def test_trained_file_has_the_metadata_of_web_uis(tmp_path: Path, images: Path, checkpoints: dict[str, Path]) -> None:
    run = run_of(tmp_path, images, checkpoints["sdxl"], epochs=2, rank=3, alpha=1.5)
    trained(run)
    with safe_open(run.output, "np") as file:
        said = file.metadata()
    assert said["ss_base_model_version"] == "sdxl_base_v1-0"
    assert (said["ss_network_dim"], said["ss_network_alpha"], said["ss_seed"]) == ("3", "1.5", "3")
    assert (said["ss_steps"], said["ss_epoch"], said["ss_num_train_images"]) == ("6", "2", "4")
    assert json.loads(said["ss_bucket_info"]) == {
        "buckets": {"0": {"resolution": [128, 128], "count": 3}, "1": {"resolution": [256, 64], "count": 1}}
    }
    assert json.loads(said["ss_tag_frequency"])["images"]["a photo of a cat"] == 4
    assert said["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert (said["modelspec.title"], said["modelspec.resolution"]) == ("my cat", "128x128")
    assert said["modelspec.prediction_type"] == "epsilon"
    assert str(tmp_path) not in json.dumps(said)
    found = read_back(run).metadata
    assert (found.title, found.base_model, found.rank, found.alpha) == ("my cat", "sdxl_base_v1-0", 3.0, 1.5)
    assert found.tags[0] == "a photo of a cat"
    assert found.trigger_words == ("a photo of a cat",)


def test_training_stops_when_the_loss_is_no_number(tmp_path: Path, images: Path, checkpoints: dict[str, Path]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoints["sd15"], broken)
    weights = load_file(broken / UNET)
    weights["conv_out.bias"].fill_(float("nan"))
    save_file(weights, broken / UNET)
    run = run_of(tmp_path, images, broken, steps=4)
    with pytest.raises(
        InvalidInput, match=r"diverged: the loss is nan at step 1 of 4. A lower learning_rate"
    ) as refused:
        trained(run)
    assert refused.value.param == "learning_rate"
    assert not run.output.exists()


def test_training_does_not_save_weights_that_are_no_numbers(
    tmp_path: Path, images: Path, checkpoints: dict[str, Path]
) -> None:
    from training.lora.plan import prepare
    from training.lora.trainer import LoraTrainer

    run = run_of(tmp_path, images, checkpoints["sd15"], steps=2)
    family, root = find_checkpoint(run.checkpoint)
    plan = prepare(run.state, run.images, run.options, checkpoint=run.checkpoint, root=root, side=64, threads=1)
    trainer = LoraTrainer(run.state, plan, family, root, run.device)
    weights = trainer.weights
    assert weights
    with torch.no_grad():
        for parameter in trainer._optimizer.param_groups[0]["params"]:
            parameter.fill_(float("inf"))
    with pytest.raises(InvalidInput, match="weights are not finite"):
        _ = trainer.weights


def test_training_state_of_another_training_is_refused(
    tmp_path: Path, images: Path, checkpoints: dict[str, Path]
) -> None:
    trained(run_of(tmp_path, images, checkpoints["sd15"], steps=1))
    for changed in ({"rank": 8}, {"seed": 4}, {"steps": 2}):
        with pytest.raises(Conflict, match="belongs to a training with other options"):
            trained(run_of(tmp_path, images, checkpoints["sd15"], **{"steps": 1, **changed}))
    with pytest.raises(Conflict):
        trained(run_of(tmp_path, images, checkpoints["sdxl"], steps=1))


def test_training_in_a_folder_that_another_process_uses_is_refused(
    tmp_path: Path, images: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr("training.lora.run._LOCK_SECONDS", 0.5)
    run = run_of(tmp_path, images, checkpoints["sd15"], steps=1)
    run.state.mkdir()
    with (run.state / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        began = time.monotonic()
        with pytest.raises(Conflict, match="Another process"):
            trained(run)
        assert time.monotonic() - began < 30


def test_training_image_that_changes_meanwhile_is_refused(
    tmp_path: Path, images: Path, checkpoints: dict[str, Path]
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(images, mine)
    run, stop = run_of(tmp_path, mine, checkpoints["sd15"], steps=1), threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        trained(run, stop)  # after the first example
    (mine / "3" / "3.png").write_bytes((mine / "2" / "2.png").read_bytes())
    with pytest.raises(InvalidInput, match=r"3/3\.png was changed or removed"):
        trained(run)


def test_training_without_images_is_refused(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="no images to train on"):
        trained(run_of(tmp_path, tmp_path / "empty", checkpoints["sd15"]))


def test_training_of_a_family_without_loras_is_refused(tmp_path: Path, images: Path) -> None:
    from exporters.errors import ExportError

    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "HiDreamImagePipeline"}))
    with pytest.raises(ExportError, match="cannot be trained"):
        trained(run_of(tmp_path, images, folder))


def test_training_of_a_checkpoint_for_inpainting_is_refused(
    tmp_path: Path, images: Path, checkpoints: dict[str, Path]
) -> None:
    from exporters.errors import ExportError

    folder = Path(shutil.copytree(checkpoints["sd15"], tmp_path / "painter"))
    edit_json(folder / "unet" / "config.json", in_channels=9)
    with pytest.raises(ExportError, match="painter is a checkpoint for inpainting"):
        trained(run_of(tmp_path, images, folder))


@pytest.mark.parametrize("name", WRITERS)
def test_training_of_a_single_file_is_that_of_its_folder(
    tmp_path: Path, images: Path, checkpoints: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As web UIs have them; the configuration is that of the folder that the file lies in."""
    monkeypatch.setattr(f"training.lora.{name}.family.CACHE", tmp_path / "cache")
    folder = shutil.copytree(checkpoints[name], tmp_path / "folder")
    state = original_xl_state if name == "sdxl" else original_state
    single = write_single_file(folder, folder / "photos.safetensors", state)
    of_file = run_of(tmp_path / "one", images, single, steps=2)
    of_folder = run_of(tmp_path / "other", images, checkpoints[name], steps=2)
    assert losses_of(trained(of_file)) == pytest.approx(losses_of(trained(of_folder)), rel=1e-5)


def test_training_leaves_the_checkpoint_as_it_is(tmp_path: Path, images: Path, checkpoints: dict[str, Path]) -> None:
    def states() -> dict[str, tuple[int, int]]:
        found = (path for path in checkpoints["sdxl"].rglob("*") if path.is_file())
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}

    before = states()
    trained(run_of(tmp_path, images, checkpoints["sdxl"], steps=1))
    assert states() == before
