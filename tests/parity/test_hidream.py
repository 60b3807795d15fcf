"""The loop against diffusers' HiDreamImagePipeline on the same weights: same noise, same picture."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HiDreamImagePipeline
from numpy.typing import NDArray
from PIL import Image

from darkroom.diffusion.sampling import (
    Step,
    denoise,
    get_generators,
    get_noise,
    get_schedule,
    initial_latents,
    predicted_original,
)
from darkroom.diffusion.schedulers import FLOW_SCHEDULERS, make_scheduler
from darkroom.errors import Cancelled
from darkroom.parameters import read_png
from darkroom.pipelines.hidream.pipeline import Components, FinishedImage, GenerationProgress, generate
from darkroom.pipelines.hidream.request import GenerateRequest
from darkroom.pipelines.hidream.transformer import load_transformer, predict
from exporters.checkpoints import preview
from tests import tiny_hidream

Pictures = NDArray[np.uint8]
TOLERANCE = 2
"""Levels of 255: the sums are the same but for their order."""
PROMPT, NEGATIVE = "a photo of a cat on a blue background", "a dog"
SQUARE, WIDE, TALL = (64, 64), (128, 64), (64, 256)
"""A wide picture has half of the tokens that the transformer pads it to, a tall one all of them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hidream")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> HiDreamImagePipeline:
    return tiny_hidream.write_checkpoint(folder / "checkpoint")


@pytest.fixture(scope="module")
def components(pipeline: HiDreamImagePipeline, folder: Path) -> Components:
    return tiny_hidream.make_components(pipeline, folder / "checkpoint", folder / "repository")


async def _collect(events: Any) -> list[GenerationProgress | FinishedImage]:
    return [event async for event in events]


def _events(components: Components, **fields: Any) -> list[GenerationProgress | FinishedImage]:
    given = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": 11, "width": 64, "height": 64, **fields}
    return asyncio.run(_collect(generate(GenerateRequest.parse(given, components.limits), components)))


def _ours(components: Components, **fields: Any) -> Pictures:
    made = [event for event in _events(components, format="raw", **fields) if isinstance(event, FinishedImage)]
    return np.stack([np.frombuffer(one.data, np.uint8).reshape(one.shape) for one in made])


def _theirs(pipeline: Any, *, seed: int = 11, num_images: int = 1, **arguments: Any) -> Pictures:
    """diffusers' pictures, in the very size: upstream scales every picture to `default_sample_size` squared."""
    area = arguments["width"] * arguments["height"]
    pipeline.default_sample_size = (1 + 1e-9) * area**0.5 / pipeline.vae_scale_factor  # it rounds sides down
    generators = [torch.Generator().manual_seed(seed + k) for k in range(num_images)]
    # Upstream hands no generators to the solver, and one that draws noise would take torch's global ones.
    pipeline.scheduler.step = functools.partial(pipeline.scheduler.step, **_drawing(pipeline.scheduler, generators))
    images = pipeline(
        **{"prompt": PROMPT, "negative_prompt": NEGATIVE, **arguments},
        num_images_per_prompt=num_images,
        generator=generators,
    ).images
    return np.stack([np.asarray(image) for image in images])


def _drawing(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    return {} if type(scheduler).__name__.startswith("UniPC") else {"generator": generators}


def _distance(first: Pictures, second: Pictures) -> int:
    assert first.shape == second.shape
    assert first.std() > 5, "a flat picture would prove nothing"
    return int(np.abs(first.astype(int) - second.astype(int)).max())


@pytest.mark.parametrize("guidance_scale", [5.0, 0.0])
@pytest.mark.parametrize("name", [None, *FLOW_SCHEDULERS])
def test_every_scheduler_gives_diffusers_picture(
    pipeline: HiDreamImagePipeline, components: Components, name: str | None, guidance_scale: float
) -> None:
    pipeline.scheduler = make_scheduler(name, components.checkpoint.scheduler)
    fields = {"guidance_scale": guidance_scale, "width": 64, "height": 64}
    ours = _ours(components, scheduler=name, steps=5, **fields)
    assert _distance(ours, _theirs(pipeline, num_inference_steps=5, **fields)) <= TOLERANCE


@pytest.mark.parametrize("size", [SQUARE, WIDE, TALL])
@pytest.mark.parametrize("num_images", [1, 2])
@pytest.mark.parametrize("guidance_scale", [5.0, 0.0])
def test_sizes_and_several_pictures(
    pipeline: HiDreamImagePipeline,
    components: Components,
    guidance_scale: float,
    num_images: int,
    size: tuple[int, int],
) -> None:
    pipeline.scheduler = make_scheduler("flow_flash", components.checkpoint.scheduler)
    fields = {"num_images": num_images, "width": size[0], "height": size[1], "guidance_scale": guidance_scale}
    ours = _ours(components, scheduler="flow_flash", steps=3, **fields)
    assert _distance(ours, _theirs(pipeline, num_inference_steps=3, **fields)) <= TOLERANCE


@pytest.mark.parametrize("length", [16, 218])
def test_lengths_of_prompts(pipeline: HiDreamImagePipeline, components: Components, length: int) -> None:
    pipeline.scheduler = make_scheduler(None, components.checkpoint.scheduler)
    fields = {"width": 64, "height": 64, "max_sequence_length": length, "prompt": f"{PROMPT} " * 30}
    ours = _ours(components, steps=2, **fields)
    assert _distance(ours, _theirs(pipeline, num_inference_steps=2, **fields)) <= TOLERANCE


def test_prompts_of_every_encoder_matter(components: Components) -> None:
    plain = _ours(components, steps=3)
    for name in components.encoders:

        async def silenced(inputs: Any, name: str = name) -> Any:
            return {key: np.zeros_like(value) for key, value in (await components.encoders[name](inputs)).items()}

        without = dataclasses.replace(components, encoders={**components.encoders, name: silenced})
        assert (_ours(without, steps=3) != plain).any(), name


def test_the_kth_picture_is_that_of_its_seed_alone(components: Components) -> None:
    together = _ours(components, num_images=3, steps=3, scheduler="flow_flash")
    for k in range(3):
        alone = _ours(components, seed=11 + k, steps=3, scheduler="flow_flash")
        assert _distance(together[k : k + 1], alone) <= TOLERANCE


def test_cancelled_before_the_next_step(components: Components) -> None:
    calls = 0

    async def counted(inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        return await components.transformer(inputs)

    with pytest.raises(Cancelled):
        _ours(dataclasses.replace(components, transformer=counted, stopped=lambda: calls == 2), steps=10)
    assert calls == 2


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
def test_progress_previews_and_details(components: Components, name: str) -> None:
    events = _events(components, steps=4, preview_every=2, num_images=2, scheduler=name)
    steps = [event for event in events if isinstance(event, GenerationProgress)]
    assert [(event.done, event.total) for event in steps] == [(n, 4) for n in range(5)]
    (shown,) = [event.preview for event in steps if event.preview]
    assert Image.open(io.BytesIO(shown)).size == (16, 8)
    pictures = [event for event in events if isinstance(event, FinishedImage)]
    assert [event.last for event in pictures] == [False, True]
    assert [event.details["seed"] for event in pictures] == [11, 12]
    info = read_png(pictures[0].data)
    assert info.details == pictures[0].details
    assert info.details["max_sequence_length"] == 128
    assert info.fields is not None
    assert info.fields["scheduler"] == name


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
def test_what_previews_show_is_in_the_end_the_result(components: Components, name: str) -> None:
    """At the last step the predicted picture is where every solver goes."""
    schedule = get_schedule(name, components.checkpoint.scheduler, 6)
    generators = get_generators([1, 2])
    noise = get_noise(generators, (16, 4, 4))

    async def predicted(step: Step) -> torch.Tensor:
        return torch.sin(3 * step.latents) + step.timestep / 1000

    steps = asyncio.run(_collect(denoise(initial_latents(noise, schedule), schedule, predicted, generators=generators)))
    torch.testing.assert_close(predicted_original(steps[-1], schedule), steps[-1].latents, rtol=0, atol=1e-4)
    assert not torch.allclose(predicted_original(steps[0], schedule), steps[-1].latents, atol=0.1)


def test_colours_of_previews_know_of_the_shift(pipeline: HiDreamImagePipeline, components: Components) -> None:
    vae = pipeline.vae
    raw = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    without = copy.deepcopy(vae)
    without.register_to_config(shift_factor=None)
    matrix, ours = torch.tensor(preview.fit(without).matrix), torch.tensor(components.checkpoint.latent_rgb)
    scaled = (raw - vae.config.shift_factor) * vae.config.scaling_factor
    expected = raw * vae.config.scaling_factor @ matrix[:-1] + matrix[-1]
    torch.testing.assert_close(scaled @ ours[:-1] + ours[-1], expected, rtol=0, atol=1e-4)


def test_rows_of_other_requests_change_nothing(pipeline: HiDreamImagePipeline, folder: Path) -> None:
    """One forward pass of rows with other latents, timesteps and prompts, against each row alone and diffusers."""
    path = folder / "checkpoint" / "transformer"
    model = load_transformer(path, device=torch.device("cpu"), dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    rows, width = 4, tiny_hidream.WIDTH
    inputs = {
        "hidden_states": torch.randn(rows, 16, 4, 12, generator=generator),
        "timesteps": torch.tensor([999.0, 500.5, 3.25, 750.0]),
        "encoder_hidden_states_t5": torch.randn(rows, 16, width, generator=generator),
        "encoder_hidden_states_llama3": torch.randn(rows, tiny_hidream.LLAMA_LAYERS, 16, width, generator=generator),
        "pooled_embeds": torch.randn(rows, sum(tiny_hidream.CLIP_WIDTHS), generator=generator),
    }
    together = predict(model, inputs)
    with torch.no_grad():
        given = {**inputs, "encoder_hidden_states_llama3": inputs["encoder_hidden_states_llama3"].transpose(0, 1)}
        theirs = pipeline.transformer(**given, return_dict=False)[0]
    assert together.dtype == torch.float32
    assert torch.equal(together, theirs)
    for row in range(rows):
        alone = predict(model, {name: value[row : row + 1] for name, value in inputs.items()})
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
    assert not inputs["hidden_states"].isnan().any()


def test_half_precision_stays_near(folder: Path) -> None:
    path = folder / "checkpoint" / "transformer"
    models = [
        load_transformer(path, device=torch.device("cpu"), dtype=kind) for kind in (torch.float32, torch.bfloat16)
    ]
    generator = torch.Generator().manual_seed(5)
    inputs = {
        "hidden_states": torch.randn(1, 16, 8, 8, generator=generator),
        "timesteps": torch.tensor([600.0]),
        "encoder_hidden_states_t5": torch.randn(1, 16, 32, generator=generator),
        "encoder_hidden_states_llama3": torch.randn(1, tiny_hidream.LLAMA_LAYERS, 16, 32, generator=generator),
        "pooled_embeds": torch.randn(1, 40, generator=generator),
    }
    full, half = (predict(model, inputs) for model in models)
    assert half.dtype == torch.float32
    assert 0 < (full - half).norm() / full.norm() < 0.1


def test_weights_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "checkpoint" / "transformer" / "diffusion_pytorch_model.safetensors")
    config = (folder / "checkpoint" / "transformer" / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(FileNotFoundError, match="no weights"):
        load_transformer(tmp_path, device=torch.device("cpu"), dtype=torch.float32)
    weights.pop("x_embedder.proj.bias")
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(RuntimeError, match=r"x_embedder\.proj\.bias"):
        load_transformer(tmp_path, device=torch.device("cpu"), dtype=torch.float32)
