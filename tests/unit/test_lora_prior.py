"""Prior images: what the checkpoint makes of other captions before a training, and learns again beside the images."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors import safe_open
from safetensors.torch import load_file

from darkroom.errors import InvalidInput
from darkroom.request.training import TrainingOptions
from tests.lora_trainings import OPTIONS, WRITERS, losses_of, run_of, trained, write_checkpoints, write_images
from training.lora.buckets import fit
from training.lora.cache import MEAN, STD, SampleCache
from training.lora.family import find_checkpoint
from training.lora.objective import generator_of
from training.lora.plan import Plan, prepare
from training.lora.run import LoraRun, run_training
from training.lora.trainer import Stopped

PROMPTS = ["a photo of a dog", "a red house"]
PRIOR: dict[str, Any] = {"prior_images": 3, "prior_prompts": json.dumps(PROMPTS)}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("session"))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A training sets how many threads its process uses."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def plan_of(run: LoraRun) -> Plan:
    _, root = find_checkpoint(run.checkpoint)
    return prepare(run.state, run.images, run.options, checkpoint=run.checkpoint, root=root, side=64, threads=1)


@pytest.mark.parametrize("name", WRITERS)
def test_prior_images_are_those_of_the_checkpoint(
    tmp_path: Path, images: Path, checkpoints: dict[str, Path], name: str
) -> None:
    """Their latents are those of diffusers' pipeline for the caption, and the embeddings those of a training image."""
    run = run_of(tmp_path, images, checkpoints[name], steps=1, **PRIOR)
    said = trained(run)
    assert [line["prior"] for line in said if "prior" in line] == [1, 2, 3]
    samples, (family, root) = SampleCache(run.state, plan_of(run)), find_checkpoint(run.checkpoint)
    device = torch.device("cpu")
    encode, pipeline = family.encoder(root, device), family.pipeline(root, device)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    sampling: dict[str, Any] = {"num_inference_steps": 20, "guidance_scale": 5.0, "output_type": "latent"}
    for index, caption in enumerate([*PROMPTS, PROMPTS[0]]):
        found = samples.read_prior(index)
        assert not found[STD].any()
        texts = encode(caption, fit((128, 128), 128))
        assert all(torch.equal(found[key], texts[key]) for key in texts)
        generator = generator_of(run.options.seed, index)
        wanted = pipeline(caption, width=128, height=128, generator=generator, **sampling).images[0]
        assert torch.allclose(found[MEAN], wanted, atol=1e-5)
    assert not torch.equal(samples.read_prior(0)[MEAN], samples.read_prior(2)[MEAN]), "another one of the same caption"


def test_prior_images_change_what_is_learnt(tmp_path: Path, images: Path, checkpoints: dict[str, Path]) -> None:
    runs = {
        name: run_of(tmp_path / name, images, checkpoints["sd15"], steps=4, learning_rate=1e-2, **more)
        for name, more in {"without": {}, "with": PRIOR}.items()
    }
    losses = {name: losses_of(trained(run)) for name, run in runs.items()}
    assert losses["with"][0] == losses["without"][0], "the loss is that of the images alone"
    assert losses["with"][1:] != losses["without"][1:]
    plain, prior = (load_file(runs[name].output) for name in ("without", "with"))
    assert any(not torch.equal(plain[key], prior[key]) for key in plain)
    with safe_open(runs["with"].output, "pt") as file:
        metadata = file.metadata()
    assert (metadata["ss_num_reg_images"], metadata["ss_prior_loss_weight"]) == ("3", "1.0")


def test_prior_images_of_a_training_that_is_stopped(tmp_path: Path, images: Path, checkpoints: dict[str, Path]) -> None:
    """While they are made and between steps; the end is the same."""
    run, stop = run_of(tmp_path, images, checkpoints["sd15"], steps=4, **PRIOR), threading.Event()
    for key, at in (("prior", 2), ("loss", None)):
        stop.clear()

        def heard(line: dict[str, Any], key: str = key, at: int | None = at) -> None:
            if key in line and at in (None, line[key]):
                stop.set()

        with pytest.raises(Stopped):
            run_training(run, heard, stop)
    trained(run)
    undisturbed = run_of(tmp_path / "other", images, checkpoints["sd15"], steps=4, **PRIOR)
    trained(undisturbed)
    one, other = load_file(run.output), load_file(undisturbed.output)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_prior_images_come_equally_often(tmp_path: Path, images: Path, checkpoints: dict[str, Path]) -> None:
    plan = plan_of(run_of(tmp_path, images, checkpoints["sd15"], steps=1, **{**PRIOR, "prior_images": 5}))
    batches = [plan.prior_batch(step) for step in range(10)]
    assert {len(batch) for batch in batches} == {2}
    assert set(Counter(index for batch in batches for index in batch).values()) == {4}
    assert batches != [plan.prior_batch(step) for step in range(10, 20)]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no prompts": ({"prior_images": 4}, "prior_prompts"),
    "no images": ({"prior_prompts": '["a dog"]'}, "prior_images"),
    "too many": ({"prior_images": 1001, "prior_prompts": '["a dog"]'}, "prior_images"),
    "no list": ({"prior_images": 4, "prior_prompts": "a dog"}, "prior_prompts"),
    "empty list": ({"prior_images": 4, "prior_prompts": "[]"}, "prior_prompts"),
    "long list": ({"prior_images": 4, "prior_prompts": json.dumps(["a"] * 101)}, "prior_prompts"),
    "no text": ({"prior_images": 4, "prior_prompts": '["a dog", 7]'}, "prior_prompts[1]"),
    "empty text": ({"prior_images": 4, "prior_prompts": '[" "]'}, "prior_prompts[0]"),
    "long text": ({"prior_images": 4, "prior_prompts": json.dumps(["a" * 1001])}, "prior_prompts[0]"),
    "half a surrogate pair": ({"prior_images": 4, "prior_prompts": '["\\ud800"]'}, "prior_prompts[0]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_prior_images_that_are_refused(name: str) -> None:
    fields, param = REFUSED[name]
    with pytest.raises(InvalidInput) as refused:
        TrainingOptions.parse({**OPTIONS, **fields}, None)
    assert refused.value.param == param
    assert param in refused.value.message
