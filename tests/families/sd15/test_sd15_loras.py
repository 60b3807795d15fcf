"""LoRAs on the demo checkpoint: rows of one batch with different ones, and images beside those of diffusers."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from darkroom.diffusion.lora_weights import loras_text, weight_at
from darkroom.errors import InvalidInput, LoraMissing
from darkroom.parameters import read_image
from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.settings import Settings
from darkroom.request.loras import LoraChoice
from darkroom.serving.in_process import InProcess
from darkroom.serving.lora_cache import BaseLoras, LoraCache
from darkroom.serving.lora_layout import LoraLayout
from darkroom.serving.loras import RowLoras
from darkroom.serving.networks import Array
from exporters.onnx_export import quiet
from tests.in_process import used
from tests.lora_matrices import Layers, make_lora, merge, write_diffusers_file
from tests.pictures import distance, pixels
from tests.served_networks import collect
from tests.service import ROOT, link_models

T = TypeVar("T")
REPOSITORY = ROOT / "model_repository"
MODELS = (networks.TEXT_ENCODER, networks.UNET, networks.VAE_DECODER, networks.PIPELINE)
TOLERANCE = 2
"""Levels of 255."""
A, B, C, D = (letter * 64 for letter in "abcd")
RANKS = {A: 4, B: 16, C: 3, D: 8}
FIELDS: dict[str, Any] = {"prompt": "a photo of a cat on a blue background", "width": 64, "height": 64, "steps": 4}
Pictures = NDArray[np.uint8]


def layouts() -> list[LoraLayout]:
    found = [LoraLayout.read(REPOSITORY / spec.name / "1") for spec in (networks.UNET, networks.TEXT_ENCODER)]
    assert None not in found, "run: python -m exporters sd15"
    return [layout for layout in found if layout is not None]


@pytest.fixture(scope="module")
def loras() -> dict[str, Layers]:
    """Of different ranks; C changes the UNet alone."""
    unet, text = layouts()
    made = {digest: make_lora([unet, text], rank, seed) for seed, (digest, rank) in enumerate(RANKS.items())}
    return {**made, C: make_lora([unet], RANKS[C], 9)}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, loras: dict[str, Layers]) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("loras")
    stored = BaseLoras(cache=LoraCache(folder / "cache", limit=1e9), layouts=layouts())
    for digest, layers in loras.items():
        stored.write(digest, layers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_CACHE_DIR", str(folder / "cache"))
        yield link_models(folder / "models", *(spec.name for spec in MODELS))


def with_models(repository: Path, work: Callable[[InProcess], Awaitable[T]]) -> T:
    return used(InProcess(repository, MODELS), work)


def choice(**weights: float) -> str:
    """The field of a request."""
    return loras_text([LoraChoice(digest=letter * 64, weight=weight) for letter, weight in weights.items()])


def pictures(responses: list[dict[str, Any]]) -> Pictures:
    return np.stack([pixels(response["image"].tobytes()) for response in responses if "image" in response])


def seeded(seed: int) -> NDArray[np.int64]:
    return np.array([seed], np.int64)


# --- one batch ------------------------------------------------------------------------------------------------


def test_lora_rows_of_one_execution_equal_their_single_runs(repository: Path) -> None:
    """Eight rows with four LoRAs, two of them together, and none, at the network itself."""
    random = np.random.default_rng(0)
    width = json.loads((ROOT / "checkpoints/demo-sd15/unet/config.json").read_text())["cross_attention_dim"]
    rows = [{A: 1.0}, {}, {B: 0.7}, {C: 1.0}, {D: -0.5}, {A: 0.5, B: 0.5}, {}, {A: 1.0}]
    inputs: dict[str, Array] = {
        "latents": random.normal(size=(8, 4, 8, 8)).astype(np.float32),
        "timestep": np.linspace(999, 1, 8, dtype=np.float32)[:, None],
        "prompt_embeds": random.normal(size=(8, 77, width)).astype(np.float32),
    }

    async def work(models: InProcess) -> tuple[Array, list[Array], tuple[int, int], Array]:
        async def call(part: slice) -> Array:
            given = {name: value[part] for name, value in inputs.items()}
            answer = await models._execute(networks.UNET, {**given, **RowLoras.of_rows(rows[part]).inputs()})
            return answer["noise_pred"]

        apart = await asyncio.gather(*(call(slice(row, row + 2)) for row in range(0, 8, 2)))
        counts = models.counts(networks.UNET.name)
        alone = [await call(slice(row, row + 1)) for row in range(8)]
        plain = (await models._execute(networks.UNET, inputs))["noise_pred"]
        return np.concatenate(apart), alone, counts, plain

    together, alone, counts, plain = with_models(repository, work)
    assert counts == (8, 1), "one execution"
    for row in range(8):
        np.testing.assert_allclose(together[row], alone[row][0], atol=2e-5)
        changed = np.abs(alone[row][0] - plain[row]).max()
        assert changed < 1e-5 if not rows[row] else changed > 1e-2


def test_lora_images_made_together_equal_those_made_alone(repository: Path) -> None:
    requests = [
        {"loras": choice(a=1.0)},
        {},
        {"loras": choice(b=0.7)},
        {"loras": choice(c=1.0, d=0.5)},
        {"loras": choice(d=-1.0)},
    ]
    jobs = [{**FIELDS, "seed": seeded(seed), "scheduler": "euler", **more} for seed, more in enumerate(requests)]

    async def work(models: InProcess) -> tuple[list[Pictures], list[Pictures], tuple[int, int]]:
        together = await asyncio.gather(*(collect(models, "sd15", **job) for job in jobs))
        counts = models.counts(networks.UNET.name)
        alone = [await collect(models, "sd15", **job) for job in jobs]
        return [pictures(one) for one in together], [pictures(one) for one in alone], counts

    together, alone, (rows, executions) = with_models(repository, work)
    assert rows == 4 * 2 * len(jobs)
    assert executions <= 12, "20 steps; at best 8 rows of 10 run together"
    assert [distance(first, second) <= TOLERANCE for first, second in zip(together, alone, strict=True)] == [True] * 5
    assert min(distance(alone[1], other) for other in (alone[0], alone[2], alone[3])) > 20


def test_lora_a_b_a_gives_the_first_image_again(repository: Path) -> None:
    async def work(models: InProcess) -> list[bytes]:
        found = []
        for letter in "aba":
            responses = await collect(models, "sd15", **FIELDS, seed=seeded(3), loras=choice(**{letter: 1.0}))
            found.append(responses[-1]["image"].tobytes())
        return found

    first, second, third = with_models(repository, work)
    assert first == third
    assert distance(pixels(first)[None], pixels(second)[None]) > 20


def test_lora_of_weight_0_is_no_lora(repository: Path) -> None:
    async def work(models: InProcess) -> list[Pictures]:
        jobs: list[dict[str, Any]] = [{}, {"loras": choice(a=0.0)}, {"loras": choice(a=0.0, b=0.0)}]
        return [pictures(await collect(models, "sd15", **FIELDS, seed=seeded(3), **job)) for job in jobs]

    plain, zero, zeros = with_models(repository, work)
    np.testing.assert_array_equal(plain, zero)
    np.testing.assert_array_equal(plain, zeros)


def test_lora_weights_by_step(repository: Path) -> None:
    """A LoRA of the UNet alone, whose weight is 0 up to the half and then 1: the same as to start at the half."""
    half = [LoraChoice(digest=C, weights_by_step=(0.0, 1.0))]
    start = [LoraChoice(digest=C, start=0.5)]
    whole = [LoraChoice(digest=C)]
    flat = [LoraChoice(digest=C, weights_by_step=(1.0, 1.0, 1.0, 1.0))]

    async def work(models: InProcess) -> list[Pictures]:
        job = {**FIELDS, "seed": seeded(3), "scheduler": "euler"}
        return [
            pictures(await collect(models, "sd15", **job, loras=loras_text(one))) for one in (half, start, whole, flat)
        ]

    made = with_models(repository, work)
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[2], made[3])
    assert distance(made[0], made[2]) > 5


# --- beside diffusers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diffusers_pipeline() -> StableDiffusionPipeline:
    with quiet():
        found = StableDiffusionPipeline.from_pretrained(ROOT / "checkpoints" / "demo-sd15", low_cpu_mem_usage=False)
    found.set_progress_bar_config(disable=True)
    return found


def theirs(pipeline: StableDiffusionPipeline, seed: int) -> Pictures:
    import torch

    arguments = {"prompt": FIELDS["prompt"], "width": 64, "height": 64, "num_inference_steps": FIELDS["steps"]}
    scale = json.loads((REPOSITORY / "sd15/1/pipeline.json").read_text())["guidance_scale"]
    with torch.no_grad():
        images = pipeline(**arguments, guidance_scale=scale, generator=torch.Generator().manual_seed(seed)).images
    return np.stack([np.asarray(image) for image in images])


def ours(repository: Path, seed: int, loras: str) -> Pictures:
    async def work(models: InProcess) -> Pictures:
        return pictures(await collect(models, "sd15", **FIELDS, seed=seeded(seed), loras=loras))

    return with_models(repository, work)


def test_lora_image_is_that_of_merged_weights(
    repository: Path, loras: dict[str, Layers], diffusers_pipeline: StableDiffusionPipeline
) -> None:
    parts = {name: copy.deepcopy(getattr(diffusers_pipeline, name)) for name in ("unet", "text_encoder")}
    for digest, scale in ((A, 0.8), (B, 0.6)):
        merge(parts["unet"], loras[digest]["unet"], scale)
        merge(parts["text_encoder"], loras[digest]["text_encoder"], scale, prefix="text_model.")
    merged = StableDiffusionPipeline(**{**diffusers_pipeline.components, **parts}, requires_safety_checker=False)
    merged.set_progress_bar_config(disable=True)
    expected = theirs(merged, 5)
    assert distance(expected, theirs(diffusers_pipeline, 5)) > 20
    assert distance(ours(repository, 5, choice(a=0.8, b=0.6)), expected) <= TOLERANCE


def test_lora_image_is_that_of_diffusers_adapters(
    repository: Path, loras: dict[str, Layers], diffusers_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    names = {"first": A, "second": B}
    with quiet():
        for name, digest in names.items():
            file = write_diffusers_file(loras[digest]["unet"], layouts()[0], tmp_path / f"{name}.safetensors")
            diffusers_pipeline.load_lora_weights(file, adapter_name=name)
        diffusers_pipeline.set_adapters(list(names), [0.8, 0.6])
        expected = theirs(diffusers_pipeline, 6)
        diffusers_pipeline.unload_lora_weights()
    stored = BaseLoras(cache=LoraCache(repository.parent / "cache", limit=1e9), layouts=layouts())
    for letter, digest in (("e", A), ("f", B)):
        stored.write(letter * 64, {"unet": loras[digest]["unet"]})
    assert distance(expected, theirs(diffusers_pipeline, 6)) > 20
    assert distance(ours(repository, 6, choice(e=0.8, f=0.6)), expected) <= TOLERANCE


# --- what the image says, and what is refused ----------------------------------------------------------------


def test_lora_stands_in_the_image(repository: Path) -> None:
    given = [LoraChoice(digest=A, weight=0.5), LoraChoice(digest=C, weights_by_step=(1.0, 0.5), end=0.9)]

    async def work(models: InProcess) -> list[dict[str, Any]]:
        return await collect(models, "sd15", **FIELDS, seed=seeded(1), loras=loras_text(given))

    details = read_image(with_models(repository, work)[-1]["image"].tobytes()).details
    assert details is not None
    assert details["loras"] == [
        {"digest": A, "weight": 0.5},
        {"digest": C, "weights_by_step": [1.0, 0.5], "end": 0.9},
    ]


def test_lora_that_is_not_there_is_named(repository: Path) -> None:
    """By the pipeline before its first step, and by the network."""
    unknown = "0" * 64

    async def work(models: InProcess) -> list[Any]:
        request = collect(models, "sd15", **FIELDS, loras=loras_text([LoraChoice(digest=unknown)]))
        ids = {"input_ids": np.zeros((1, 77), np.int64), **RowLoras.same(1, {unknown: 1.0}).inputs()}
        return await asyncio.gather(request, models._execute(networks.TEXT_ENCODER, ids), return_exceptions=True)

    for error in with_models(repository, work):
        assert isinstance(error, LoraMissing)
        assert error.digest == unknown


def test_lora_is_refused_where_a_network_takes_none(repository: Path, tmp_path: Path) -> None:
    others = [spec for spec in MODELS if spec != networks.UNET]
    models_folder = link_models(tmp_path / "models", *(spec.name for spec in others))
    version = models_folder / networks.UNET.name / "1"
    version.mkdir(parents=True)
    source = REPOSITORY / networks.UNET.name
    (version.parent / "config.pbtxt").symlink_to(source / "config.pbtxt")
    (version / "model.onnx").symlink_to(source / "1" / "model.onnx")

    async def work(models: InProcess) -> tuple[Pictures, Any]:
        plain = pictures(await collect(models, "sd15", **FIELDS, seed=seeded(1)))
        refused = asyncio.gather(collect(models, "sd15", **FIELDS, loras=choice(a=1.0)), return_exceptions=True)
        return plain, (await refused)[0]

    plain, error = with_models(models_folder, work)
    assert plain.std() > 5
    assert isinstance(error, InvalidInput)
    assert "take no LoRAs" in error.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be a JSON list of objects"),
        ('[{"name": "cats"}]', r"loras\[0\].digest is missing"),
        (json.dumps([{"digest": A}, {"session_id": "x"}]), r"loras\[1\].digest is missing"),
        (json.dumps([{"digest": A, "weight": 11}]), r"loras\[0\].weight must be from -10 to 10; got 11"),
    ],
)
def test_lora_field_is_refused_with_its_range(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        assert networks.GenerateRequest.parse({"prompt": "", "loras": text}, Settings()).lora_choices


@pytest.mark.parametrize(
    ("more", "weights"),
    [
        ({}, [0.5, 0.5, 0.5, 0.5]),
        ({"start": 0.5}, [0, 0, 0.5, 0.5]),
        ({"end": 0.5}, [0.5, 0.5, 0, 0]),
        ({"start": 0.2, "end": 0.9}, [0, 0.5, 0.5, 0]),
        ({"weights_by_step": (1.0, 2.0)}, [1, 1, 2, 2]),
        ({"weights_by_step": (1.0, 2.0, 3.0, 4.0)}, [1, 2, 3, 4]),
        ({"weights_by_step": (1.0, 2.0, 3.0), "start": 0.25}, [0, 1, 2, 3]),
    ],
)
def test_lora_weight_at_each_step(more: dict[str, Any], weights: list[float]) -> None:
    lora = LoraChoice(digest=A, weight=0.5, **more)
    assert [weight_at(lora, index, 4) for index in range(4)] == weights
