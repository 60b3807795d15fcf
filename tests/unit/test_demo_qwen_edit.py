"""The training of the Qwen-Image-Edit demo checkpoint: its edits and their judge, some real steps, and an export."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline
from PIL import Image, ImageFilter
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from darkroom.edit_modes.modes import MODES
from darkroom.edit_modes.prompt import language_of
from training.card import ADHERENCE
from training.demo.qwen_edit.attention import PlainAttention
from training.demo.qwen_edit.card import FOLDER
from training.demo.qwen_edit.cases import KEEP, random_case, training_cases, unseen_cases
from training.demo.qwen_edit.judge import judge, mistakes
from training.demo.qwen_edit.measure import measure_edits
from training.demo.qwen_edit.models import (
    SHIFT,
    TEXT_ENCODER,
    THUMBNAIL,
    TRANSFORMER,
    as_tokens,
    encode,
    make_networks,
    make_scheduler,
    make_transformer,
    make_vae,
    patches_of,
)
from training.demo.qwen_edit.pictures import FONTS, INKS, WORDS, Picture, Writing, contrasts, draw, thumbnail
from training.demo.qwen_edit.pipeline import edit, load_pipeline
from training.demo.qwen_edit.samples import BLANK
from training.demo.qwen_edit.sentences import CHINESE, random_sentence, sentence
from training.demo.qwen_edit.stage import STAGE, VAE_STAGE, EditStage, noisy, token_weights
from training.demo.qwen_edit.tokens import DROPPED, SYSTEM, make_tokenizer, prompt, tokenize
from training.demo.qwen_edit.vae import for_frames, posterior
from training.export import export
from training.family import families
from training.glyphs import NAMES
from training.measure import Measurement
from training.restore import restore
from training.styles import STYLES
from training.train import make_stage
from training.trainer import Budget, Trainer, TrainingRun, averaged_weights, state_path
from training.world import BACKGROUNDS

FAMILY = families()["qwen_edit"]
_BATCH, _STEPS = 4, 25


def _run(folder: Path) -> TrainingRun:
    return TrainingRun(folder=folder, seed=0, device=torch.device("cpu"), samples=80)


def _train(run: TrainingRun, name: str, steps: int, between: Callable[[], None] = lambda: None) -> Trainer:
    stage: Any = make_stage(name, run, lambda text: None)
    stage.batch = _BATCH
    stage.learning_rate = 3e-3  # more than it has for thousands of steps: these are few
    trainer = Trainer(run, stage, lambda text: None, between)
    trainer.train(Budget(steps=steps))
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """Both stages, trained for some steps."""
    made = _run(tmp_path_factory.mktemp("state"))
    _train(made, VAE_STAGE, 2)
    _train(made, STAGE, _STEPS)
    return made


@pytest.fixture(scope="module")
def checkpoint(run: TrainingRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("checkpoints")
    export(run, output, lambda text: None, FAMILY)
    return output / FOLDER


def _as_a_vae_would(picture: Any, seed: int) -> Any:
    """Blurred with sigma 1, and with noise of 8 of 255."""
    soft = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1)), np.float32)
    noise = np.random.default_rng(seed).normal(0, 8, soft.shape)
    return (soft + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("mode", MODES)
def test_the_wanted_picture_is_right_and_the_unedited_one_is_not(mode: int) -> None:
    for number, case in enumerate(unseen_cases(4, mode)):
        assert judge(case, _as_a_vae_would(draw(case.wanted), number)).right, case
        for given in case.given:
            assert not judge(case, _as_a_vae_would(draw(given), number)).right, case


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_with_one_mistake_is_not_right(mode: int) -> None:
    (case,) = unseen_cases(1, mode)
    wrong = [picture for picture in dict.fromkeys(mistakes(case)) if picture != case.wanted]
    assert len(wrong) > 20
    for picture in random.Random(0).sample(wrong, 12):
        drawn = draw(picture)
        if np.abs(drawn.astype(int) - draw(case.wanted)).mean() > 0.2:  # two fonts may draw a short word alike
            assert not judge(case, drawn).right, picture


def test_what_was_not_to_change_has_to_stay() -> None:
    (case,) = unseen_cases(1, 12)
    colour = np.array(BACKGROUNDS[case.wanted.background])
    moved = np.where(np.abs(draw(case.wanted) - colour).max(axis=-1, keepdims=True) < 8, 110, draw(case.wanted))
    assert not judge(case, moved.astype(np.uint8)).right


def test_an_edit_without_a_change_is_right_where_nothing_is_asked() -> None:
    case = random_case(random.Random(0), KEEP)
    assert judge(case, draw(case.given[0])).right


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a picture is \(128, 128, 3\) uint8; got \(64, 64, 3\)"):
        judge(random_case(random.Random(0), 6), np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize("mode", MODES)
def test_training_never_sees_the_edits_that_are_measured(mode: int) -> None:
    unseen = unseen_cases(50, mode)
    assert len(set(unseen)) == 50
    assert all(case.held_out for case in unseen)
    stream = training_cases(0, mode)
    assert not any(next(stream).held_out for _ in range(50))
    given, control = len(unseen[0].given), MODES[mode].requires_controlnet
    MODES[mode].check_images(given - control, control=control)


def test_words_can_be_read_on_every_background() -> None:
    for background in BACKGROUNDS:
        inks = [ink for ink in INKS if contrasts(ink, background)]
        assert len(inks) >= 2
        for word in WORDS:
            written = [Writing(word=word, font=font, ink=inks[0]) for font in FONTS]
            drawn = {draw(Picture(things=(), background=background, writing=one)).tobytes() for one in written}
            assert len(drawn) == len(FONTS)


def test_sentences_are_plain_or_as_the_service_makes_them() -> None:
    rng = random.Random(0)
    for mode in MODES:
        for language in ("en", "zh"):
            case = random_case(rng, mode)
            plain = sentence(random.Random(1), case, language=language, enhanced=False)
            whole = sentence(random.Random(1), case, language=language, enhanced=True)
            assert language_of(plain) == language
            assert whole.endswith(plain)
            assert len(whole) > len(plain)


def test_all_words_of_the_world_have_a_chinese_one() -> None:
    assert {*NAMES, *BACKGROUNDS, *STYLES, *INKS, *FONTS} <= set(CHINESE)


def test_the_system_prompt_has_as_many_tokens_as_diffusers_leaves_out() -> None:
    assert len(make_tokenizer()(SYSTEM).input_ids) == DROPPED
    rows = tokenize(["Keep everything.", BLANK], pictures=2)
    start = make_tokenizer().decode(rows[0, DROPPED:])
    assert start.startswith("Picture 1: <|vision_start|><|image_pad|><|image_pad|>")


def test_words_are_tokens() -> None:
    tokenizer, rng = make_tokenizer(), random.Random(0)
    for word in (*NAMES, *BACKGROUNDS, *STYLES, *INKS, *FONTS, "background", "Picture"):
        assert len(tokenizer(f"a {word}").input_ids) == 2
    for word in CHINESE.values():
        assert len(tokenizer(word).input_ids) == 1
    lengths = [len(tokenizer(random_sentence(rng, random_case(rng, mode))).input_ids) for mode in MODES for _ in "1234"]
    assert max(lengths) <= 64


def test_thumbnails_are_patches_as_the_image_processor_makes_them() -> None:
    small = thumbnail(draw(random_case(random.Random(0), 6).wanted), THUMBNAIL)
    made = Qwen2VLImageProcessorPil(size={"shortest_edge": THUMBNAIL**2, "longest_edge": THUMBNAIL**2})(
        images=[small], return_tensors="pt"
    )
    assert torch.equal(patches_of(torch.from_numpy(small)[None])[0], made["pixel_values"])
    assert made["image_grid_thw"].tolist() == [[1, 4, 4]]


def test_the_encoder_reads_rows_as_if_each_were_alone() -> None:
    torch.manual_seed(0)
    encoder = make_networks()[TEXT_ENCODER].eval()
    texts, pictures = ["Keep everything.", "Make the background red."], 2
    patches = torch.randn(2, pictures, 16, 1176)
    tokens = tokenize(texts, pictures)
    with torch.no_grad():
        states, mask = encode(encoder, tokens, patches)
        for row, text in enumerate(texts):
            ids = torch.tensor([make_tokenizer()(prompt(text, pictures)).input_ids])
            alone = encoder(
                input_ids=ids,
                pixel_values=patches[row].flatten(0, 1),
                image_grid_thw=torch.tensor([[1, 4, 4]] * pictures),
                mm_token_type_ids=(ids == encoder.config.image_token_id).int(),
                output_hidden_states=True,
            ).hidden_states[-1][0, DROPPED:]
            assert int(mask[row].sum()) == len(alone)
            assert torch.allclose(states[row, : len(alone)], alone, atol=1e-5)


def test_attention_in_training_is_that_of_diffusers() -> None:
    torch.manual_seed(0)
    transformer = make_transformer()
    for weight in transformer.parameters():
        if weight.ndim == 2 and not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(2, 8, 64),
        "encoder_hidden_states": torch.randn(2, 9, 128),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.tensor([0.1, 0.9]),
        "img_shapes": [[(1, 2, 2)] * 2] * 2,
        "return_dict": False,
    }
    with torch.no_grad():
        expected = transformer(**inputs)[0]
        for block in transformer.transformer_blocks:
            block.attn.set_processor(PlainAttention())
        assert torch.allclose(transformer(**inputs)[0], expected, atol=1e-4)
        other = transformer(**{**inputs, "encoder_hidden_states_mask": None})[0]
    assert expected.std() > 0.1
    assert not torch.allclose(other[1], expected[1], atol=1e-3)


def test_the_vae_for_frames_is_the_vae() -> None:
    torch.manual_seed(0)
    vae, frames = make_vae().eval(), torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(frames[:, :, None]).latent_dist.mean
        picture = vae.decode(latents).sample[:, :, 0]
        quick = for_frames(vae)
        made = posterior(quick, frames).mean
        assert torch.allclose(made, latents[:, :, 0], atol=1e-5)
        decoded = quick.decoder(quick.post_quant_conv(made[:, :, None]))[:, :, 0]
    assert torch.allclose(decoded.clamp(-1, 1), picture, atol=1e-4)


def test_a_solver_of_flow_matching_follows_the_way_back() -> None:
    latents = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(1))
    mixed, velocity, sigmas = noisy(latents, torch.Generator().manual_seed(0))
    assert torch.allclose(mixed - sigmas * velocity, latents, atol=1e-5)
    scheduler = make_scheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 7, 7), mu=float(np.log(SHIFT)))
    sample = latents + velocity
    for timestep in scheduler.timesteps:
        sample = scheduler.step(velocity, timestep, sample).prev_sample
    assert torch.allclose(sample, latents, atol=1e-5)


def test_tokens_are_packed_as_in_diffusers_pipeline() -> None:
    latents = torch.randn(2, 16, 4, 6)
    expected = QwenImageEditPlusPipeline._pack_latents(latents, 2, 16, 4, 6)
    assert torch.equal(as_tokens(latents), expected)


def test_what_changes_counts_more() -> None:
    before = torch.zeros(1, 2, 64)
    wanted = torch.stack([torch.zeros(64), torch.full((64,), 3.0)])[None]
    assert token_weights(wanted, before).tolist() == [[0.5, 1.5]]


def test_the_loss_falls(run: TrainingRun) -> None:
    """Of the same edits, noise and timesteps, before and after."""
    stage = EditStage(run, lambda text: None)
    stage.batch = 8

    def losses() -> float:
        with torch.no_grad():
            return sum(float(stage.loss(step, 0)[0]) for step in range(4))

    before = losses()
    stage.modules.load_state_dict(torch.load(state_path(run, STAGE), weights_only=True)["weights"])
    assert losses() < 0.9 * before


def test_every_part_learns(run: TrainingRun) -> None:
    stage = EditStage(run, lambda text: None)  # its weights are those that training began with
    trained = torch.load(state_path(run, STAGE), weights_only=True)["weights"]
    still = [name for name, value in stage.modules.state_dict().items() if torch.equal(value, trained[name])]
    # The text that leaves the last block is not read.
    unused = ("statistics.", f"{TRANSFORMER}.transformer_blocks.4.", "inv_freq")
    assert all(any(part in name for part in unused) for name in still), still


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

    _train(_run(folders[0]), STAGE, 4)
    with pytest.raises(KeyboardInterrupt):
        _train(_run(folders[1]), STAGE, 4, stop)
    _train(_run(folders[1]), STAGE, 4)
    first, second = (torch.load(state_path(_run(folder), STAGE), weights_only=True) for folder in folders)
    assert first["clock"]["step"] == second["clock"]["step"] == 4
    for key in ("weights", "average"):
        assert all(torch.equal(value, second[key][name]) for name, value in first[key].items())


def test_diffusers_edits_with_the_checkpoint(checkpoint: Path) -> None:
    pipeline = load_pipeline(checkpoint)
    assert type(pipeline) is QwenImageEditPlusPipeline
    case = random_case(random.Random(0), 1)
    pictures = tuple(draw(picture) for picture in case.given)
    made = edit(pipeline, pictures, "Put the cat and the dog together.", steps=2, guidance=2.0, seed=1)
    assert made.shape == (128, 128, 3)
    assert made.std() > 1
    again = edit(pipeline, pictures, "Put the cat and the dog together.", steps=2, guidance=2.0, seed=1)
    assert np.array_equal(made, again)


def test_the_checkpoint_is_small_and_says_how_it_is_used(checkpoint: Path) -> None:
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    assert size <= 24_700_000, "25 MB, of which a measurement and its sheet of pictures take 0.3"
    assert json.loads((checkpoint / "model_index.json").read_text())["processor"] == [
        "transformers",
        "Qwen2VLProcessor",
    ]
    generation = json.loads((checkpoint / "generation_config.json").read_text())
    assert generation["reference_area"] == 128 * 128
    assert json.loads((checkpoint / "training.json").read_text())[STAGE]["step"] == _STEPS
    card = (checkpoint / "README.md").read_text()
    assert "Not yet" in card
    assert f"{_STEPS} steps" in card


def test_edits_are_measured_by_mode(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / FOLDER)
    settings = Measurement(checkpoints=tmp_path, family=FAMILY, prompts=4, steps=2, device=torch.device("cpu"))
    result = measure_edits(settings, lambda text: None, modes=(6,))
    assert result["groups"].keys() == {"mode_6"}
    assert result["groups"]["mode_6"]["prompts"] == 1
    assert json.loads((tmp_path / FOLDER / ADHERENCE).read_text()) == result
    assert f"| 6 | {MODES[6].name} |" in (tmp_path / FOLDER / "README.md").read_text()
    assert (tmp_path / FOLDER / "adherence.jpg").is_file()


def test_states_come_back_from_a_checkpoint(run: TrainingRun, checkpoint: Path, tmp_path: Path) -> None:
    restored = _run(tmp_path)
    restore(restored, checkpoint.parent, lambda text: None, FAMILY)
    for stage in (VAE_STAGE, STAGE):
        ours, theirs = averaged_weights(restored, stage), averaged_weights(run, stage)
        for module, weights in theirs.items():
            for name, value in weights.items():
                if value.is_floating_point() and "inv_freq" not in name and module != "statistics":
                    assert torch.equal(ours[module][name], value.half().float()), name
    assert Trainer(restored, make_stage(STAGE, restored, lambda text: None), lambda text: None).clock.step == _STEPS


def test_an_edit_is_not_of_its_case_with_another_word() -> None:
    """Two edits that differ in the word alone do not judge each other's result right."""
    case = unseen_cases(1, 9)[0]
    assert case.wanted.writing is not None
    other = next(word for word in WORDS if word != case.wanted.writing.word)
    assert not judge(case, draw(replace(case.wanted, writing=replace(case.wanted.writing, word=other)))).right
