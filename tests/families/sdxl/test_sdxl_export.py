"""The exporter of Stable Diffusion XL: networks against diffusers, what the loop is told, refiners, unfit checkpoints.

What it exports in fp32 from a base and a refiner is also run by tests/contract/test_txt2img.py.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from darkroom.pipelines.sdxl import networks
from darkroom.pipelines.sdxl.checkpoint import SdxlCheckpointInfo
from darkroom.serving.networks import ModelSpec, OrtNetwork
from darkroom.settings import Settings
from exporters import manifest
from exporters.checkpoints.origin import Origin
from exporters.controls import belongs
from exporters.errors import ExportError
from exporters.export import TOLERANCE
from exporters.files import CACHE
from exporters.onnx_export import quiet
from exporters.sdxl import command, pipeline, weights
from exporters.tasks import run_task
from exporters.tensorrt.graph import read_graph
from tests import tiny_sdxl
from tests.sd15_checkpoints import edit_json


@dataclass(frozen=True)
class Made:
    """A repository, and diffusers' pipelines of the checkpoints that it was made of."""

    repository: Path
    base: StableDiffusionXLPipeline
    refiner: StableDiffusionXLImg2ImgPipeline

    def network(self, spec: ModelSpec) -> OrtNetwork:
        return OrtNetwork(self.repository / spec.name / "1" / "model.onnx", threads=1)


@pytest.fixture(scope="module")
def made(sdxl_repository: Path) -> Made:
    folder = sdxl_repository.parent / "checkpoint"
    with quiet():
        base = StableDiffusionXLPipeline.from_pretrained(folder / "base", add_watermarker=False)
        refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(folder / "refiner", add_watermarker=False)
    return Made(sdxl_repository, base, refiner)


@pytest.fixture
def checkpoints(sdxl_repository: Path, tmp_path: Path) -> Path:
    """Copies of the base and the refiner, to do something to."""
    return Path(shutil.copytree(sdxl_repository.parent / "checkpoint", tmp_path / "checkpoints"))


def origin(folder: Path) -> Origin:
    def fetch(name: str) -> Path:
        raise ExportError(f"{name} is fetched")

    return Origin.of(str(folder), folder.parent, fetch)


def agree(ours: Any, theirs: torch.Tensor) -> None:
    expected = theirs.detach().numpy()
    assert (ours.shape, ours.dtype) == (expected.shape, np.float32)
    assert np.abs(ours - expected).max() <= TOLERANCE["fp32"].relative * np.abs(expected).max()


@pytest.mark.parametrize("rows", [1, 3])
def test_sdxl_text_encoders_give_the_states_before_the_last_layer(made: Made, rows: int) -> None:
    ids = np.random.default_rng(0).integers(0, made.base.text_encoder.config.vocab_size, (rows, 77))
    ids[:, -1] = made.base.tokenizer.eos_token_id
    encoders = (made.base.text_encoder, made.base.text_encoder_2)
    for spec, encoder in zip(networks.TEXT_ENCODERS, encoders, strict=True):
        ours = made.network(spec).run({"input_ids": ids})
        with torch.no_grad():
            theirs = encoder(torch.from_numpy(ids), output_hidden_states=True)
        agree(ours["prompt_embeds"], theirs.hidden_states[-2])
        if spec is networks.TEXT_ENCODER_2:
            agree(ours["text_embeds"], theirs.text_embeds)


@pytest.mark.parametrize(("rows", "height", "width", "tokens"), [(1, 9, 13, 77), (3, 8, 8, 154)])
@pytest.mark.parametrize("spec", [networks.UNET, networks.REFINER_UNET], ids=lambda spec: spec.name)
def test_sdxl_unets_with_rows_of_their_own_timesteps_and_sizes(
    made: Made, spec: ModelSpec, rows: int, height: int, width: int, tokens: int
) -> None:
    refiner = spec is networks.REFINER_UNET
    random = np.random.default_rng(1)
    unet = made.refiner.unet if refiner else made.base.unet
    inputs = {
        "latents": random.normal(size=(rows, 4, height, width)).astype(np.float32),
        "timestep": random.uniform(0, 999, (rows, 1)).astype(np.float32),
        "prompt_embeds": random.normal(size=(rows, tokens, unet.config.cross_attention_dim)).astype(np.float32),
        "text_embeds": random.normal(size=(rows, tiny_sdxl.PROJECTION)).astype(np.float32),
        "time_ids": random.integers(0, 2048, (rows, 7 if refiner else 6)).astype(np.float32),
    }
    ours = made.network(spec).run(inputs)["noise_pred"]
    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    told = given["time_ids"][:, [0, 1, 2, 3, 6]] if refiner else given["time_ids"]
    with torch.no_grad():
        theirs = unet(
            given["latents"],
            given["timestep"][:, 0],
            given["prompt_embeds"],
            added_cond_kwargs={"text_embeds": given["text_embeds"], "time_ids": told},
        ).sample
    agree(ours, theirs)


@pytest.mark.parametrize(("rows", "height", "width"), [(1, 72, 104), (2, 64, 64)])
def test_sdxl_vae_encoder_gives_the_posterior(made: Made, rows: int, height: int, width: int) -> None:
    image = np.random.default_rng(2).integers(0, 256, (rows, height, width, 3), np.uint8)
    ours = made.network(networks.VAE_ENCODER).run({"image": image})
    vae = made.base.vae
    with torch.no_grad():
        theirs = vae.encode(torch.from_numpy(image).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    agree(ours["mean"], theirs.mean * vae.config.scaling_factor)
    agree(ours["std"], theirs.std * vae.config.scaling_factor)


def test_sdxl_engines_know_the_widths_of_embeddings(made: Made) -> None:
    found = read_graph(made.repository / networks.UNET.name / "1" / "model.onnx").inputs
    assert found["prompt_embeds"] == (None, None, sum(tiny_sdxl.WIDTHS))
    assert found["text_embeds"] == (None, tiny_sdxl.PROJECTION)
    assert found["time_ids"] == (None, networks.BASE_IDS)


def test_sdxl_what_the_pipeline_reads(made: Made) -> None:
    facts = SdxlCheckpointInfo.read(made.repository / networks.PIPELINE.name / "1")
    assert (facts.name, facts.side, facts.request_defaults) == ("base", 64, {"steps": 20, "guidance_scale": 7.0})
    assert facts.force_zeros_for_empty_prompt
    assert (facts.scheduler["_class_name"], facts.scheduler["timestep_spacing"]) == (
        "EulerDiscreteScheduler",
        "leading",
    )
    pads = [one["pad_token_id"] for one in facts.tokens]
    assert pads == [made.base.tokenizer.pad_token_id, made.base.tokenizer_2.pad_token_id]
    assert pads[0] != pads[1]


@pytest.mark.parametrize(
    ("title", "steps", "guidance_scale"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", 20, 7.0),
        ("stabilityai/sdxl-turbo", 1, 0.0),
        ("ByteDance/SDXL-Lightning", 4, 0.0),
        ("photos-lightning-8step", 8, 0.0),
        ("Photos_Lightning_2Steps", 2, 0.0),
    ],
)
def test_sdxl_distilled_checkpoints_by_their_names(title: str, steps: int, guidance_scale: float) -> None:
    assert pipeline.usual_sampling(title) == (steps, guidance_scale)


def test_sdxl_checkpoint_says_its_steps_and_guidance(checkpoints: Path, tmp_path: Path) -> None:
    base = checkpoints / "base"
    (base / "generation_config.json").write_text('{"steps": 4, "guidance_scale": 0}')
    edit_json(base / "model_index.json", force_zeros_for_empty_prompt=False)
    edit_json(base / "scheduler" / "scheduler_config.json", timestep_spacing="trailing")
    task = command.base_tasks(origin(base), tmp_path / "r", None)[-1]
    run_task(task, force=False, quiet=True)
    facts = SdxlCheckpointInfo.read(task.folder)
    assert facts.request_defaults == {"steps": 4, "guidance_scale": 0.0}
    assert not facts.force_zeros_for_empty_prompt
    assert facts.scheduler["timestep_spacing"] == "trailing"
    (base / "generation_config.json").write_text('{"steps": 1.5}')
    with pytest.raises(ExportError, match=r"steps must be a whole number from 1 to 1000; got 1\.5"):
        run_task(task, force=True, quiet=True)


def test_sdxl_vae_stays_in_fp32(made: Made, tmp_path: Path) -> None:
    """It overflows in fp16: images would be black."""
    base = origin(made.repository.parent / "checkpoint" / "base")
    tasks = {task.name: task for task in command.base_tasks(base, tmp_path, "fp16")}
    for name, precision in (
        (networks.VAE_ENCODER.name, "fp32"),
        (networks.VAE_DECODER.name, "fp32"),
        (networks.UNET.name, "fp16"),
    ):
        run_task(tasks[name], force=False, quiet=True)
        found = manifest.read(tmp_path / name / "1")
        assert found is not None
        assert found.precision == precision


# --- refiners


def test_sdxl_refiner_stays_where_the_base_is_exported_again(made: Made, checkpoints: Path, tmp_path: Path) -> None:
    repository = Path(shutil.copytree(made.repository, tmp_path / "r"))
    model = repository / networks.REFINER_UNET.name
    before = (model / "1" / "model.onnx").stat().st_mtime_ns
    base = origin(made.repository.parent / "checkpoint" / "base")
    command.export_refiner(base, None, tmp_path, repository, None, CACHE, quiet=True)
    assert (model / "1" / "model.onnx").stat().st_mtime_ns == before


def test_sdxl_refiner_that_does_not_go_with_another_base_is_removed(
    made: Made, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Path(shutil.copytree(made.repository, tmp_path / "r"))
    other = checkpoints / "base"
    edit_json(other / "text_encoder_2" / "config.json", projection_dim=12)
    edit_json(other / "unet" / "config.json", projection_class_embeddings_input_dim=6 * tiny_sdxl.TIME_WIDTH + 12)
    command.export_refiner(origin(other), None, tmp_path, repository, None, CACHE)
    assert not (repository / networks.REFINER_UNET.name).exists()
    assert "sdxl_refiner_unet: removed, it does not go with the base." in capsys.readouterr().out
    with pytest.raises(ExportError, match="for 5 numbers and a pooled embedding of 12"):
        command.export_refiner(origin(other), "refiner", checkpoints, repository, None, CACHE)


def test_sdxl_refiner_is_removed_when_nobody_wants_it(made: Made, tmp_path: Path) -> None:
    model = tmp_path / networks.REFINER_UNET.name
    shutil.copytree(made.repository / networks.REFINER_UNET.name, model)
    base = origin(made.repository.parent / "checkpoint" / "base")
    command.export_refiner(base, "none", tmp_path, tmp_path, None, CACHE)
    assert not model.exists()


# --- ControlNets


def test_sdxl_controlled_unet_is_that_of_diffusers_row_by_row(
    made: Made, controlled_sdxl_repository: Path, sdxl_controlnet_folder: Path
) -> None:
    random, rows, height, width = np.random.default_rng(3), 2, 9, 13
    spec = networks.CONTROL_UNETS["canny"]
    with quiet():
        controlnet = ControlNetModel.from_pretrained(sdxl_controlnet_folder, low_cpu_mem_usage=False)
    inputs = {
        "latents": random.normal(size=(rows, 4, height, width)).astype(np.float32),
        "timestep": np.array([[999], [20.5]], np.float32),
        "prompt_embeds": random.normal(size=(rows, 77, sum(tiny_sdxl.WIDTHS))).astype(np.float32),
        "text_embeds": random.normal(size=(rows, tiny_sdxl.PROJECTION)).astype(np.float32),
        "time_ids": random.integers(0, 2048, (rows, networks.BASE_IDS)).astype(np.float32),
        "control_image": random.integers(0, 256, (rows, 8 * height, 8 * width, 3), np.uint8),
        "controlnet_conditioning_scale": np.array([[1.0], [0.3]], np.float32),
    }
    ours = Made(controlled_sdxl_repository, made.base, made.refiner).network(spec).run(inputs)["noise_pred"]
    for row in range(rows):
        one = {name: torch.from_numpy(value[row : row + 1]) for name, value in inputs.items()}
        call = [one["latents"], one["timestep"][:, 0], one["prompt_embeds"]]
        added = {"text_embeds": one["text_embeds"], "time_ids": one["time_ids"]}
        with torch.no_grad():
            down, middle = controlnet(
                *call,
                controlnet_cond=one["control_image"].permute(0, 3, 1, 2) / 255,
                conditioning_scale=float(one["controlnet_conditioning_scale"]),
                added_cond_kwargs=added,
                return_dict=False,
            )
            theirs = made.base.unet(
                *call,
                added_cond_kwargs=added,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample
            plain = made.base.unet(*call, added_cond_kwargs=added).sample
        agree(ours[row : row + 1], theirs)
        assert (theirs - plain).abs().max() > 0.1 * plain.abs().max(), "the control should do something"


def test_sdxl_another_base_takes_the_control_unet_away(
    made: Made, controlled_sdxl_repository: Path, tmp_path: Path
) -> None:
    repository = Path(shutil.copytree(controlled_sdxl_repository, tmp_path / "r"))
    control = manifest.read(repository / "sdxl_unet_canny" / "1")
    assert belongs(control, command.CONTROLS.base_of(repository))
    assert command.CONTROLS.withdraw_stale(repository) == set()
    noted = repository / networks.UNET.name / "1" / "export.json"
    state = command.CONTROLS.base_of(repository)
    assert state is not None
    weights_file = next(name for name in state.files if name.endswith(".safetensors"))
    noted.write_text(noted.read_text().replace(state.files[weights_file].sha256, "0" * 64))
    assert command.CONTROLS.withdraw_stale(repository) == {"sdxl_unet_canny"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"addition_embed_type": None}, "addition_embed_type is None, expected text_time"),
        ({"block_out_channels": [320, 640]}, r"does not fit the UNet of base: block_out_channels is \[320, 640\]"),
        ({"cross_attention_dim": 32}, "does not fit the UNet of base: cross_attention_dim is 32"),
        ({"in_channels": 9}, "in_channels is 9, expected 4"),
        ({"conditioning_embedding_out_channels": [8, 16]}, "does not read images 8 times the size"),
    ],
)
def test_sdxl_unfit_controlnets_are_one_sentence(
    checkpoints: Path, sdxl_controlnet_folder: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    unet = weights.read_checkpoint(checkpoints / "base").parts[weights.UNET]
    folder = Path(shutil.copytree(sdxl_controlnet_folder, tmp_path / "canny"))
    assert weights.read_controlnet(folder, unet).config["_class_name"] == "ControlNetModel"
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ExportError, match=words):
        weights.read_controlnet(folder, unet)


# --- unfit checkpoints


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "model_index.json").unlink(), "has no model_index.json"),
        (lambda root: edit_json(root / "model_index.json", text_encoder_2=None), "with text_encoder_2 missing"),
        (lambda root: edit_json(root / "unet" / "config.json", cross_attention_dim=32), "cross_attention_dim is 32"),
        (lambda root: edit_json(root / "unet" / "config.json", in_channels=8), "in_channels is 8, expected 4, or 9"),
        (lambda root: edit_json(root / "unet" / "config.json", time_cond_proj_dim=8), "time_cond_proj_dim is 8"),
        (
            lambda root: edit_json(root / "unet" / "config.json", addition_embed_type=None),
            "addition_embed_type is None",
        ),
        (lambda root: edit_json(root / "vae" / "config.json", latent_channels=16), "latent_channels is 16"),
        (lambda root: edit_json(root / "vae" / "config.json", latents_mean=[0, 0, 0, 0]), "latents_mean is"),
        (lambda root: (root / "text_encoder" / "model.safetensors").unlink(), "has no weights text_encoder/"),
    ],
)
def test_sdxl_unfit_checkpoints_are_one_sentence(checkpoints: Path, damage: Any, words: str) -> None:
    damage(checkpoints / "base")
    with pytest.raises(ExportError, match=words):
        weights.read_checkpoint(checkpoints / "base")


def test_sdxl_base_is_no_refiner(checkpoints: Path) -> None:
    base = weights.read_checkpoint(checkpoints / "base")
    with pytest.raises(ExportError, match="the width of the base's second text encoder"):
        weights.read_refiner(checkpoints / "base", base)


# --- prepare


def test_sdxl_prepare_exports_what_the_settings_name(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made.repository.parent / "checkpoint"
    asked: list[tuple[str, str | None]] = []
    monkeypatch.setattr(command, "base_tasks", lambda base, *_: asked.append((Path(base.name).name, None)) or [])
    monkeypatch.setattr(command, "export_refiner", lambda base, named, *_, **__: asked.append(("refiner", named)))

    def prepared(**settings: str) -> list[tuple[str, str | None]]:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        asked.clear()
        command.prepare(Settings(model_repository=tmp_path / "r", num_gpus_to_use=0), tmp_path / "r")
        return list(asked)

    monkeypatch.setattr(command, "DEMO", tmp_path / "demo")
    monkeypatch.setattr(command, "DEMO_REFINER", tmp_path / "demo-refiner")
    names = {"SDXL_CHECKPOINT": str(tmp_path / "demo"), "SDXL_REFINER": str(tmp_path / "demo-refiner")}
    assert prepared(**names) == [], "there is no demo"
    shutil.copytree(folder / "base", tmp_path / "demo")
    assert prepared() == [("demo", None), ("refiner", None)], "there is no refiner of the demo"
    shutil.copytree(folder / "refiner", tmp_path / "demo-refiner")
    assert prepared() == [("demo", None), ("refiner", names["SDXL_REFINER"])]
    own = {"SDXL_CHECKPOINT": str(folder / "base")}
    assert prepared(**own) == [("base", None), ("refiner", None)], "the demo's goes with the demo alone"
    assert prepared(SDXL_REFINER="none")[1] == ("refiner", "none")
