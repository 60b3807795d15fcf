"""The training of the HiDream demo checkpoint: its parts, a few real steps, and what comes out of an export."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import HiDreamImagePipeline
from numpy.typing import NDArray
from torch import Tensor

from darkroom.diffusion.generation import FinishedImage
from darkroom.pipelines.hidream.distributed.layouts import LAYOUTS
from darkroom.pipelines.hidream.distributed.shard import check_divisible
from darkroom.pipelines.hidream.pipeline import generate
from darkroom.pipelines.hidream.request import GenerateRequest
from tests import tiny_hidream
from training.cli import main
from training.dataset import RARE
from training.demo.hidream.card import FOLDER
from training.demo.hidream.models import SHIFT, TRANSFORMER, make_scheduler
from training.demo.hidream.stage import VAE_STAGE, VIEWS, Flow, HidreamStage, as_patches
from training.demo.hidream.tokens import LENGTH, Words
from training.export import export
from training.family import families
from training.measure import load_pipeline
from training.render import SIDE
from training.restore import restore
from training.tokens import WORDS
from training.train import make_stage
from training.trainer import Budget, Trainer, TrainingRun, averaged_weights, state_path
from training.world import random_caption, random_scene

HIDREAM = families()["hidream"]
PROMPT = "a photo of a cat on a blue background"
_BATCH, _STEPS = 4, 40


def _run(folder: Path) -> TrainingRun:
    return TrainingRun(folder=folder, seed=0, device=torch.device("cpu"), samples=64)


def _train(run: TrainingRun, name: str, steps: int, between: Callable[[], None] = lambda: None) -> Trainer:
    stage: Any = make_stage(name, run, lambda text: None)
    stage.batch = _BATCH
    stage.learning_rate = 1e-2  # more than it has for thousands of steps: these are few
    trainer = Trainer(run, stage, lambda text: None, between)
    trainer.train(Budget(steps=steps))
    return trainer


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """Both stages, trained for some steps."""
    made = _run(tmp_path_factory.mktemp("state"))
    _train(made, VAE_STAGE, 2)
    _train(made, "hidream", _STEPS)
    return made


@pytest.fixture(scope="module")
def checkpoint(run: TrainingRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("checkpoints")
    export(run, output, lambda text: None, HIDREAM)
    return output / FOLDER


def test_every_word_is_one_token_for_every_encoder(words: Words) -> None:
    for tokenizer in (words.clip, words.t5, words.llama):
        assert all(len(tokenizer(f"a {word}", add_special_tokens=False).input_ids) == 2 for word in WORDS)


def test_every_sentence_is_read_to_its_end(words: Words) -> None:
    rng = random.Random(0)
    sentences = list({random_caption(rng, random_scene(rng)) for _ in range(2000)})
    for tokenizer in (words.clip, words.t5, words.llama):
        assert max(map(len, tokenizer(sentences).input_ids)) <= LENGTH
    tokens = words.tokenize(sentences)
    assert tokens.shape == (len(sentences), 3 * LENGTH)
    assert len({tuple(row) for row in tokens.tolist()}) == len(sentences)
    found = words.mentions(tokens, RARE).tolist()
    assert found == [any(style in sentence for style in RARE) for sentence in sentences]
    assert 0 < sum(found) < len(sentences)


def test_a_solver_of_flow_matching_follows_the_way_back() -> None:
    latents = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(1))
    for seed in range(3):
        noisy, wanted, timesteps = Flow(SHIFT)(latents, torch.Generator().manual_seed(seed))
        assert torch.allclose(noisy + timesteps / 1000 * wanted, latents, atol=1e-5)
        scheduler = make_scheduler()
        scheduler.set_timesteps(7)
        sample = latents - wanted
        for timestep in scheduler.timesteps:
            sample = scheduler.step(-wanted, timestep, sample).prev_sample  # the sign of diffusers' pipeline
        assert torch.allclose(sample, latents, atol=1e-5)


def test_training_meets_the_timesteps_that_sampling_asks_for() -> None:
    _, _, timesteps = Flow(SHIFT)(torch.zeros(20_000, 1, 1, 1), torch.Generator().manual_seed(0))
    scheduler = make_scheduler()
    scheduler.set_timesteps(100)
    quantiles = torch.linspace(0.1, 0.9, 9)
    assert torch.allclose(timesteps.quantile(quantiles), scheduler.timesteps.quantile(quantiles), atol=15)


@pytest.mark.parametrize("size", [(8, 8), (4, 8), (8, 6)])
def test_patches_are_what_the_transformer_answers_in_training(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = tiny_hidream.make_transformer()
    layers, tokens = 2, 5
    inputs: dict[str, Tensor] = {
        "hidden_states": torch.randn(2, 16, *size),
        "timesteps": torch.tensor([10.0, 900.0]),
        "encoder_hidden_states_t5": torch.randn(2, tokens, tiny_hidream.WIDTH),
        "encoder_hidden_states_llama3": torch.randn(layers + 1, 2, tokens, tiny_hidream.WIDTH),
        "pooled_embeds": torch.randn(2, sum(tiny_hidream.CLIP_WIDTHS)),
    }
    with torch.no_grad():
        expected = as_patches(model.eval()(**inputs, return_dict=False)[0])
        answer = model.train()(**inputs, return_dict=False)[0]
    assert torch.allclose(answer[:, :, : expected.shape[2]], expected, atol=1e-5)


def test_views_leave_nothing_out_that_their_sentences_name(run: TrainingRun) -> None:
    stage = HidreamStage(run, lambda text: None)
    whole = torch.randn(1, 16, SIDE // 8, SIDE // 8)
    assert {tuple(view.of(whole).shape[2:]) for view in VIEWS.values()} == {(12, 16), (16, 12)}
    for view in VIEWS.values():
        drawn = stage.weights[view] > 0
        named = stage.words.clip.batch_decode(stage.samples.data.tokens[drawn][:, :LENGTH], skip_special_tokens=True)
        assert 0 < len(named) < len(stage.samples.data)
        assert not any(word in sentence.split() for sentence in named for word in view.cut)


def test_the_vae_begins_with_what_the_other_family_has_learned(run: TrainingRun, tmp_path: Path) -> None:
    """In a folder where that was trained; only the layers next to the latents are new."""
    other = _run(tmp_path)
    first = _train(other, "vae", 2).averaged.state_dict()
    begun = make_stage(VAE_STAGE, other, lambda text: None).modules.state_dict()
    kept = {name for name, value in begun.items() if name in first and torch.equal(value, first[name])}
    assert {name.removeprefix("vae.").rpartition(".")[0] for name in begun.keys() - kept} == {
        "encoder.conv_out",
        "decoder.conv_in",
    }
    alone = make_stage(VAE_STAGE, run, lambda text: None).modules.state_dict()
    assert not torch.equal(alone["vae.decoder.conv_out.weight"], begun["vae.decoder.conv_out.weight"])


def test_the_loss_falls(run: TrainingRun) -> None:
    """Of the same samples, noise and timesteps, before and after; square and not."""
    stage = HidreamStage(run, lambda text: None)
    stage.batch = 16
    stage.modules.train()
    fixed = (0, *VIEWS)

    def losses() -> list[float]:
        with torch.no_grad():
            return [float(stage.loss(step, 0)[0]) for step in fixed]

    before = losses()
    trained = torch.load(state_path(run, "hidream"), weights_only=True)["weights"]
    stage.modules.load_state_dict(trained)
    assert all(after < 0.9 * first for first, after in zip(before, losses(), strict=True)), (before, losses())


def test_every_part_learns(run: TrainingRun) -> None:
    stage = HidreamStage(run, lambda text: None)  # its weights are those that training began with
    trained = torch.load(state_path(run, "hidream"), weights_only=True)["weights"]
    still = [name for name, value in stage.modules.state_dict().items() if torch.equal(value, trained[name])]
    assert all(name == "scale.factor" or "position_ids" in name or "inv_freq" in name for name in still), still


def test_a_resumed_training_goes_on_exactly(run: TrainingRun, tmp_path: Path) -> None:
    folders = [tmp_path / "whole", tmp_path / "halves"]
    for folder in folders:
        folder.mkdir()
        (folder / f"{VAE_STAGE}.pt").write_bytes(state_path(run, VAE_STAGE).read_bytes())
    steps = 0

    def stop() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt

    _train(_run(folders[0]), "hidream", 4)
    with pytest.raises(KeyboardInterrupt):
        _train(_run(folders[1]), "hidream", 4, stop)
    _train(_run(folders[1]), "hidream", 4)
    first, second = (torch.load(folder / "hidream.pt", weights_only=True) for folder in folders)
    assert first["clock"]["step"] == second["clock"]["step"] == 4
    for key in ("weights", "average"):
        assert all(torch.equal(value, second[key][name]) for name, value in first[key].items())


def test_the_checkpoint_is_small_and_can_be_divided(checkpoint: Path) -> None:
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    assert size <= 19_700_000, "20 MB, of which a measurement and its sheet of pictures take 0.2"
    for layout in LAYOUTS.values():
        check_divisible(checkpoint / "transformer", layout)
    assert json.loads((checkpoint / "training.json").read_text())["hidream"]["step"] == _STEPS
    card = (checkpoint / "README.md").read_text()
    assert "Not yet" in card
    assert f"{_STEPS} steps" in card
    assert "{" not in card


def test_diffusers_and_the_service_draw_the_same_picture(checkpoint: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(HIDREAM, checkpoint)
    assert type(pipeline) is HiDreamImagePipeline
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.weight.mul_(20)  # else it is hardly more than grey after two steps
    components = tiny_hidream.make_components(pipeline, checkpoint, tmp_path)
    assert components.checkpoint.side == SIDE
    assert components.checkpoint.max_tokens == 64
    for width, height in ((128, 128), (128, 96)):
        pipeline.default_sample_size = (1 + 1e-9) * (width * height) ** 0.5 / 8
        expected = pipeline(
            PROMPT,
            width=width,
            height=height,
            num_inference_steps=3,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(5),
            output_type="np",
        ).images[0]
        fields = {"prompt": PROMPT, "width": width, "height": height, "steps": 3, "guidance_scale": 4.0, "seed": 5}
        request = GenerateRequest.parse({**fields, "format": "raw"}, components.limits)
        made = asyncio.run(_picture(generate(request, components)))
        assert made.shape == (height, width, 3)
        assert made.std() > 5, "a flat picture would prove nothing"
        assert np.abs(made.astype(int) - (expected * 255).round().astype(int)).max() <= 2


async def _picture(events: Any) -> NDArray[np.uint8]:
    (made,) = [event async for event in events if isinstance(event, FinishedImage)]
    return np.frombuffer(made.data, np.uint8).reshape(made.shape)


def test_states_come_back_from_a_checkpoint(run: TrainingRun, checkpoint: Path, tmp_path: Path) -> None:
    restored = _run(tmp_path)
    restore(restored, checkpoint.parent, lambda text: None, HIDREAM)
    for stage in (VAE_STAGE, "hidream"):
        ours, theirs = averaged_weights(restored, stage), averaged_weights(run, stage)
        for module, weights in theirs.items():
            for name, value in weights.items():
                if value.is_floating_point() and "inv_freq" not in name:
                    assert torch.equal(ours[module][name], value.half().float()) or name == "factor", name
    stage = make_stage("hidream", restored, lambda text: None)
    trainer = Trainer(restored, stage, lambda text: None)
    assert trainer.clock.step == _STEPS
    assert TRANSFORMER in stage.modules
    with pytest.raises(FileExistsError):
        restore(restored, checkpoint.parent, lambda text: None, HIDREAM)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--family", "hidream", "--stages", "unet"],
        ["train", "--stages", "hidream"],
        ["train", "--family", "flux"],
        ["measure", "--family", "hidream", "--canny"],
    ],
)
def test_other_families_stages_are_refused(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert arguments[-1].removeprefix("--") in result.output


def test_an_export_says_what_was_not_trained(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["export", "--family", "hidream", "--state", str(tmp_path), "--checkpoints", str(tmp_path / "made")]
    )
    assert result.exit_code == 1
    assert "hidream" in result.output
    assert not list((tmp_path / "made").glob("*"))
