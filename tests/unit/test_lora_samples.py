"""Which epochs of a training samples are made of, of which prompts, and what the trainer leaves for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from darkroom.errors import InvalidInput
from darkroom.request.training import TrainingOptions
from tests.lora_trainings import OPTIONS, run_of, trained, write_checkpoints, write_images
from training.lora.buckets import fit
from training.lora.plan import Example, Plan

PROMPTS = json.dumps(["a cat in the snow", "a cat on a sofa"])


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A training sets how many threads its process uses."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def plan(examples: int, **options: Any) -> Plan:
    made = Example(image="0.png", digest="", caption="a cat", fit=fit((128, 128), 128))
    return Plan(
        options={**OPTIONS, "alpha": 4.0, **options},
        checkpoint="",
        weights={},
        examples=[made] * examples,
        threads=1,
        started_at=0.0,
    )


def test_samples_are_made_after_each_epoch() -> None:
    assert plan(5, epochs=3, sample_images=2).sampled == {3: 1, 6: 2, 9: 3}
    assert plan(5, steps=7, sample_images=2).sampled == {3: 1, 6: 2, 7: 3}, "the last one ends early"
    assert plan(5, epochs=3).sampled == {}


def test_samples_of_many_epochs_have_a_limit() -> None:
    found = plan(2, epochs=1000, sample_images=8).sampled
    assert len(found) == 8
    assert max(found) == 1000
    assert {later - one for one, later in zip([*found][:-1], [*found][1:], strict=True)} == {125}
    assert len(plan(2, epochs=1000, sample_images=3).sampled) * 3 <= 64


def test_sample_prompts_are_those_of_the_request_or_the_captions() -> None:
    captions = ["a", "b", "a", "c"]
    for options, prompts in (
        ({"sample_images": 2}, ("a", "b")),
        ({"sample_images": 5}, ("a", "b", "c", "a", "b")),
        ({"sample_prompts": PROMPTS}, ("a cat in the snow", "a cat on a sofa")),
        ({"sample_prompts": PROMPTS, "sample_images": 1}, ("a cat in the snow",)),
        ({}, ()),
    ):
        assert TrainingOptions.parse({**OPTIONS, **options}, None).sample_texts(captions) == prompts
    assert TrainingOptions.parse({**OPTIONS, "sample_images": 2}, None).sample_texts([]) == ()


@pytest.mark.parametrize("prompts", ["a cat", "[]", json.dumps(["a"] * 9), '[""]', "[7]"])
def test_sample_prompts_that_are_refused(prompts: str) -> None:
    with pytest.raises(InvalidInput, match="sample_prompts"):
        TrainingOptions.parse({**OPTIONS, "sample_prompts": prompts}, None)


def test_trainer_leaves_the_lora_of_each_epoch(tmp_path: Path) -> None:
    """That of the last one is the result, and they do not change what is learnt."""
    images, checkpoint = write_images(tmp_path / "images"), write_checkpoints(tmp_path / "checkpoints")["sd15"]
    run = run_of(tmp_path / "with", images, checkpoint, epochs=2, sample_images=1, learning_rate=1e-2)
    said = trained(run)
    assert [(line["epoch"], line["step"]) for line in said if "epoch" in line] == [(1, 3), (2, 6)]
    first, last = sorted((run.state / "epochs").iterdir())
    assert (first.name, last.name) == ("000001.safetensors", "000002.safetensors")
    assert last.read_bytes() == run.output.read_bytes()
    assert hashlib.sha256(first.read_bytes()).digest() != hashlib.sha256(last.read_bytes()).digest()
    assert (run.state / "loss.svg").read_bytes().startswith(b"<svg")
    other = run_of(tmp_path / "without", images, checkpoint, epochs=2, learning_rate=1e-2)
    trained(other)
    assert not (other.state / "epochs").exists()
    one, two = load_file(run.output), load_file(other.output)
    assert all(torch.equal(one[name], two[name]) for name in one)
