"""The demo world: sentences and scenes, the held-out split, and a judge that reads what is rendered."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.cli import main
from training.glyphs import CELL, GLYPHS, NAMES, SHEET, sprites
from training.judge import holds, judge
from training.render import SIDE, render
from training.styles import STYLES, styled
from training.tokens import BOS, EOS, WORDS, train_merges, write_tokenizer
from training.world import (
    BACKGROUNDS,
    SIZES,
    Placed,
    Scene,
    caption,
    held_out,
    held_out_scenes,
    parse,
    random_caption,
    random_scene,
    training_scenes,
)

Picture = NDArray[np.uint8]


@cache
def judged_scenes() -> list[tuple[Scene, Picture]]:
    """120 held-out scenes, half with two objects, and their pictures."""
    rng = random.Random(5)
    scenes = [*held_out_scenes(60, objects=1), *held_out_scenes(60, objects=2)]
    return [(scene, render(scene, rng)) for scene in scenes]


def as_a_vae_would(picture: Picture, seed: int) -> Picture:
    """Blurred with sigma 1, and with noise of 8 of 255."""
    soft = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1)), np.float32)
    noisy = soft + np.random.default_rng(seed).normal(0, 8, soft.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def test_the_sheet_holds_at_least_forty_different_glyphs() -> None:
    assert len(NAMES) >= 40
    assert len(set(GLYPHS.values())) == len(NAMES)
    assert SHEET.stat().st_size <= 700_000
    found = sprites()
    assert all(sprite.shape == (CELL, CELL, 4) for sprite in found.values())
    assert all(sprite[..., 3].any(axis=0).sum() == CELL or sprite[..., 3].any(axis=1).sum() == CELL
               for sprite in found.values()), "the longest side fills the cell"  # fmt: skip
    assert len({sprite.tobytes() for sprite in found.values()}) == len(NAMES)


@pytest.mark.parametrize(
    ("sentence", "scene"),
    [
        ("a cat on a blue background", Scene(objects=(Placed(glyph="cat"),), background="blue")),
        ("A photo of an apple on a red background.", Scene(objects=(Placed(glyph="apple"),), background="red")),
        (
            "an outline of a small owl on a pink background",
            Scene(objects=(Placed(glyph="owl", size="small"),), background="pink", style="outline"),
        ),
        (
            "a dog on the right and a pizza on the left on a white background",
            Scene(
                objects=(Placed(glyph="pizza", place="left"), Placed(glyph="dog", place="right")), background="white"
            ),
        ),
        (
            "a drawing of a car below an octopus on a black background",
            Scene(
                objects=(Placed(glyph="octopus", place="above"), Placed(glyph="car", place="below")),
                background="black",
                style="drawing",
            ),
        ),
    ],
)
def test_sentences_ask_for_scenes(sentence: str, scene: Scene) -> None:
    assert parse(sentence) == scene


def test_every_sentence_that_is_written_is_read_back() -> None:
    rng = random.Random(1)
    scenes = [random_scene(rng) for _ in range(2000)]
    for scene in scenes:
        assert parse(caption(scene)) == scene
        assert parse(random_caption(rng, scene)) == scene
    used = {word for scene in scenes for word in random_caption(rng, scene).split()}
    assert used == set(WORDS)


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "a cat",
        "a zebra on a blue background",
        "a cat on a brown background",
        "a painting of a cat on a blue background",
        "a cat on the left and a dog on the left on a blue background",
        "a small cat above a dog on a blue background",
        "a cat on the left on a blue background",
    ],
)
def test_other_sentences_are_refused(sentence: str) -> None:
    with pytest.raises(ValueError, match=r"sentence|word|places"):
        parse(sentence)


def test_training_never_sees_what_is_held_out() -> None:
    seen = list(islice(training_scenes(0), 3000))
    assert not any(held_out(scene) for scene in seen)
    kept = [*held_out_scenes(100, objects=1), *held_out_scenes(100, objects=2)]
    assert len(set(kept)) == 200
    assert all(held_out(scene) for scene in kept)
    glyphs = Counter(item.glyph for scene in seen for item in scene.objects)
    assert set(glyphs) == set(NAMES), "every glyph is seen, only not with every background"
    with pytest.raises(ValueError, match="only"):
        held_out_scenes(400, objects=1)


def test_the_held_out_split_depends_on_glyphs_and_background_alone() -> None:
    for scene in held_out_scenes(40, objects=2):
        first, second = scene.objects
        swapped = (Placed(glyph=second.glyph, place="left"), Placed(glyph=first.glyph, place="right"))
        for style in STYLES:
            assert held_out(Scene(objects=swapped, background=scene.background, style=style))


def test_the_same_seed_renders_the_same_bytes() -> None:
    scenes = list(islice(training_scenes(7), 20))
    assert scenes == list(islice(training_scenes(7), 20))
    first, second = ([render(scene, random.Random(3)) for scene in scenes] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_glyphs_stand_out_from_every_background(background: str, size: str, style: str) -> None:
    colour = np.array(BACKGROUNDS[background])
    for name in NAMES:
        scene = Scene(objects=(Placed(glyph=name, size=size),), background=background, style=style)
        picture = render(scene, random.Random(0))
        assert picture.shape == (SIDE, SIDE, 3)
        assert (picture[0, 0] == colour).all()
        assert (np.abs(picture - colour).max(axis=-1) > 40).mean() > 0.01, name


def test_an_outline_is_line_only() -> None:
    for name in NAMES:
        photo, outline = styled(name, 72, "photo"), styled(name, 72, "outline")
        assert not outline[..., :3].any()
        assert 0.1 < outline[..., 3].sum() / photo[..., 3].sum() < 0.95, name


def test_the_judge_reads_rendered_scenes() -> None:
    right = [judge(picture).scene == scene for scene, picture in judged_scenes()]
    assert np.mean(right) >= 0.99


def test_the_judge_reads_blurred_and_noisy_scenes() -> None:
    scenes = judged_scenes()
    right = [holds(scene, judge(as_a_vae_would(picture, seed))) for seed, (scene, picture) in enumerate(scenes)]
    assert np.mean(right) >= 0.98


def test_the_judge_says_no() -> None:
    pair = Scene(objects=(Placed(glyph="cat", place="left"), Placed(glyph="dog", place="right")), background="blue")
    verdict = judge(render(pair, random.Random(0)))
    assert holds(pair, verdict)
    swapped = Scene(objects=(Placed(glyph="dog", place="left"), Placed(glyph="cat", place="right")), background="blue")
    single = Scene(objects=(Placed(glyph="cat"),), background="blue")
    elsewhere = Scene(objects=pair.objects, background="purple")
    for asked in (swapped, single, elsewhere):
        assert not holds(asked, verdict)


@pytest.mark.parametrize("kind", ["blank", "noise", "stripes", "half"])
def test_the_judge_is_not_sure_of_other_pictures(kind: str) -> None:
    rng = np.random.default_rng(0)
    picture = np.full((SIDE, SIDE, 3), BACKGROUNDS["green"], np.uint8)
    if kind == "noise":
        picture = rng.integers(0, 256, picture.shape).astype(np.uint8)
    elif kind == "stripes":
        picture[::8] = 255
    elif kind == "half":
        picture[:, SIDE // 2 :] = 255
    assert not judge(picture).sure


def test_the_judge_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="128"):
        judge(np.zeros((64, 128, 3), np.uint8))


def test_every_word_of_the_grammar_is_one_token() -> None:
    merges = train_merges(WORDS)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # how a tokenizer applies merges: the earliest first
            index = min(range(len(pieces) - 1), key=lambda i: ranks.get((pieces[i], pieces[i + 1]), len(merges)))
            assert (pieces[index], pieces[index + 1]) in ranks, word
            pieces[index : index + 2] = [pieces[index] + pieces[index + 1]]


def test_the_tokenizer_folder(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert [vocabulary[BOS], vocabulary[EOS]] == [len(vocabulary) - 2, len(vocabulary) - 1]
    assert all(word + "</w>" in vocabulary for word in WORDS)


def test_show_and_judge_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "owl.png"
    asked = "a drawing of a large owl on a pink background"
    runner = CliRunner()
    assert runner.invoke(main, ["show", asked, str(file)]).exit_code == 0
    result = runner.invoke(main, ["judge", str(file)])
    assert result.output.startswith(f"owl.png: {asked}; explains ")
    refused = runner.invoke(main, ["show", "a zebra on a blue background", str(file)])
    assert refused.exit_code == 2
    assert "zebra" in refused.output


def test_the_exporters_start_without_the_demo_and_its_world_without_torch() -> None:
    code = (
        "import sys, exporters.cli; assert 'training' not in sys.modules;"
        "import training.judge, training.cli, training.tokens;"
        "bad = {'torch', 'diffusers', 'transformers', 'cv2'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
