"""What the SD 1.5 exporter reads: unfit checkpoints, other ways to store one, tokenizers, colours of previews."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from exporters.checkpoints import clip_tokenizer, preview
from exporters.errors import ExportError
from exporters.sd15 import weights
from exporters.sd15.weights import read_checkpoint, read_controlnet
from tests.sd15_checkpoints import TEXT, UNET, VAE, edit_json, write_checkpoint


def one_sentence(error: pytest.ExceptionInfo[ExportError]) -> str:
    text = str(error.value)
    assert text.endswith(".") or ": " in text
    assert "\n" not in text
    assert "Traceback" not in text
    return text


# --- checkpoints that are none

Break = Callable[[Path], Any]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


UNFIT: list[tuple[str, Break, str]] = [
    (
        "no index",
        lambda f: (f / "model_index.json").unlink(),
        "no checkpoint in the diffusers folder layout: it has no",
    ),
    ("index is no JSON", lambda f: (f / "model_index.json").write_text("{"), "tiny/model_index.json cannot be read"),
    ("index is a list", lambda f: (f / "model_index.json").write_text("[]"), "it holds no JSON object"),
    (
        "SDXL",
        lambda f: edit_json(f / "model_index.json", _class_name="StableDiffusionXLPipeline", text_encoder_2=["a", "b"]),
        "no checkpoint of the Stable Diffusion 1.5 kind: model_index.json says StableDiffusionXLPipeline",
    ),
    (
        "a transformer",
        lambda f: edit_json(f / "model_index.json", _class_name="FluxPipeline", unet=None, transformer=["a", "b"]),
        "says FluxPipeline with unet missing; expected one UNet2DConditionModel",
    ),
    ("no config", lambda f: (f / "vae/config.json").unlink(), "it has no vae/config.json"),
    ("no weights", lambda f: (f / UNET).unlink(), f"tiny has no weights {UNET}"),
    (
        "another class",
        lambda f: edit_json(f / "vae/config.json", _class_name="VQModel"),
        "tiny/vae/config.json describes VQModel, expected AutoencoderKL",
    ),
    (
        "InstructPix2Pix",
        lambda f: edit_json(f / "unet/config.json", in_channels=8),
        "tiny/unet: in_channels is 8, expected 4, or 9 for inpainting",
    ),
    (
        "another text encoder",
        lambda f: edit_json(f / "unet/config.json", cross_attention_dim=768),
        "tiny/unet: cross_attention_dim is 768, expected 32, the width of the text encoder",
    ),
    (
        "SDXL's UNet",
        lambda f: edit_json(f / "unet/config.json", addition_embed_type="text_time"),
        "tiny/unet: addition_embed_type is text_time, expected None",
    ),
    (
        "guidance embedding",
        lambda f: edit_json(f / "unet/config.json", time_cond_proj_dim=256),
        "tiny/unet: time_cond_proj_dim is 256, expected None",
    ),
    (
        "16 channels",
        lambda f: edit_json(f / "vae/config.json", latent_channels=16),
        "tiny/vae: latent_channels is 16, expected 4",
    ),
    (
        "four times",
        lambda f: edit_json(f / "vae/config.json", block_out_channels=[8, 8, 8]),
        "the VAE makes images 4 times the size of the latents, expected 8 times",
    ),
    (
        "a shard is missing",
        lambda f: (
            (f / UNET).rename(f / "unet/diffusion_pytorch_model-00001-of-00002.safetensors")
            and (f / f"{UNET}.index.json").write_text(
                json.dumps({"weight_map": {"a": "diffusion_pytorch_model-00002-of-00002.safetensors"}})
            )
        ),
        "tiny has no unet/diffusion_pytorch_model-00002-of-00002.safetensors, which",
    ),
]


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in UNFIT], ids=[case[0] for case in UNFIT])
def test_unfit_checkpoints_are_refused(tiny: Path, change: Break, words: str) -> None:
    read_checkpoint(tiny)
    change(tiny)
    with pytest.raises(ExportError) as error:
        read_checkpoint(tiny)
    assert words in one_sentence(error)


UNFIT_CONTROLNETS: list[tuple[str, Break, str]] = [
    (
        "other widths",
        lambda f: edit_json(f / "config.json", block_out_channels=[320, 640, 1280]),
        "The ControlNet tiny-canny does not fit the UNet of tiny: block_out_channels is [320, 640, 1280], the UNet's",
    ),
    (
        "a whole pipeline",
        lambda f: edit_json(f / "config.json", _class_name="UNet2DConditionModel"),
        "tiny-canny/config.json describes UNet2DConditionModel, expected ControlNetModel",
    ),
    (
        "shuffle",
        lambda f: edit_json(f / "config.json", global_pool_conditions=True),
        "tiny-canny: global_pool_conditions is True, expected False",
    ),
    (
        "another factor",
        lambda f: edit_json(f / "config.json", conditioning_embedding_out_channels=[8, 8]),
        "does not read images 8 times the size of the latents",
    ),
    ("no config", lambda f: (f / "config.json").unlink(), "it has no config.json"),
]


@pytest.mark.parametrize(
    ("change", "words"), [case[1:] for case in UNFIT_CONTROLNETS], ids=[case[0] for case in UNFIT_CONTROLNETS]
)
def test_unfit_controlnets_are_refused(tiny: Path, canny: Path, change: Break, words: str) -> None:
    unet = read_checkpoint(tiny).unet
    read_controlnet(canny, unet)
    change(canny)
    with pytest.raises(ExportError) as error:
        read_controlnet(canny, unet)
    assert words in one_sentence(error)


def shrink(path: Path, key: str) -> None:
    state = load_file(path)
    state[key] = state[key][:1].clone()
    save_file(state, path, metadata={"format": "pt"})


def drop(path: Path, key: str) -> None:
    state = load_file(path)
    del state[key]
    save_file(state, path, metadata={"format": "pt"})


def add(path: Path, key: str) -> None:
    save_file({**load_file(path), key: torch.zeros(3)}, path, metadata={"format": "pt"})


DAMAGED: list[tuple[str, str, Break, str]] = [
    ("cut UNet", "unet", lambda f: truncate(f / UNET), f"tiny/{UNET} cannot be read as the weights of"),
    ("cut VAE", "vae", lambda f: truncate(f / VAE), f"tiny/{VAE} cannot be read as the weights of"),
    ("cut text", "text_encoder", lambda f: truncate(f / TEXT), f"tiny/{TEXT} cannot be read as the weights of"),
    ("empty UNet", "unet", lambda f: (f / UNET).write_bytes(b""), f"tiny/{UNET} cannot be read as the weights of"),
    ("missing", "unet", lambda f: drop(f / UNET, "conv_in.bias"), "1 are missing, conv_in.bias is the first"),
    ("unknown", "unet", lambda f: add(f / UNET, "extra.weight"), "1 are unknown, extra.weight is the first"),
    ("shape", "unet", lambda f: shrink(f / UNET, "conv_in.bias"), f"tiny/{UNET}"),
    ("text", "text_encoder", lambda f: drop(f / TEXT, text_key(f)), "1 are missing"),
]


def text_key(folder: Path) -> str:
    return next(key for key in load_file(folder / TEXT) if key.endswith("final_layer_norm.bias"))


@pytest.mark.parametrize(("part", "change", "words"), [case[1:] for case in DAMAGED], ids=[case[0] for case in DAMAGED])
def test_damaged_weights_are_refused(tiny: Path, part: str, change: Break, words: str) -> None:
    change(tiny)
    component = read_checkpoint(tiny).component(part)
    with pytest.raises(ExportError) as error:
        weights.load(part, component)
    assert words in one_sentence(error)


# --- other ways to store one


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_read_without_running_code(tiny: Path, part: str) -> None:
    path = tiny / {"unet": UNET, "vae": VAE, "text_encoder": TEXT}[part]
    stem = "pytorch_model" if part == "text_encoder" else path.stem
    before = weights.load(part, read_checkpoint(tiny).component(part)).state_dict()
    torch.save(load_file(path), path.with_name(f"{stem}.bin"))
    path.unlink()
    component = read_checkpoint(tiny).component(part)
    assert component.weights == (f"{part}/{stem}.bin",)

    after = weights.load(part, component).state_dict()

    assert all(torch.equal(value, after[name]) for name, value in before.items())
    torch.save({"conv_in.weight": print}, path.with_name(f"{stem}.bin"))
    with pytest.raises(ExportError, match="cannot be read as the weights of"):
        weights.load(part, component)


def test_half_precision_is_loaded_as_fp32(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "half", half=True))
    for part in ("unet", "vae", "text_encoder"):
        component = checkpoint.component(part)
        stored = load_file(component.root / component.weights[0])
        assert {value.dtype for value in stored.values()} == {torch.float16}
        loaded = weights.load(part, component)
        assert {value.dtype for value in loaded.parameters()} == {torch.float32}


def test_a_variant_is_taken_where_there_is_no_other(tiny: Path) -> None:
    (tiny / UNET).rename(tiny / "unet/diffusion_pytorch_model.fp16.safetensors")
    unet = read_checkpoint(tiny).unet
    assert unet.variant == "fp16"
    assert weights.load("unet", unet).config.in_channels == 4


def test_shards_are_read(tiny: Path) -> None:
    state = load_file(tiny / UNET)
    names = ["diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model-00002-of-00002.safetensors"]
    halves = [dict(list(state.items())[half::2]) for half in (0, 1)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, tiny / "unet" / name, metadata={"format": "pt"})
    index = {
        "metadata": {},
        "weight_map": {key: name for name, half in zip(names, halves, strict=True) for key in half},
    }
    (tiny / f"{UNET}.index.json").write_text(json.dumps(index))
    (tiny / UNET).unlink()
    unet = read_checkpoint(tiny).unet
    assert unet.weights == (f"{UNET}.index.json", *(f"unet/{name}" for name in names))
    loaded = weights.load("unet", unet).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in state.items())


# --- the tokenizer


def test_tokenizer_of_vocabulary_and_merges(tiny: Path) -> None:
    assert not (tiny / "tokenizer/tokenizer.json").exists()
    converted = clip_tokenizer.convert(tiny, longest=77)
    settings = json.loads(converted.json)
    assert settings["truncation"] is None
    assert settings["padding"] is None
    assert converted.max_tokens == 77
    assert clip_tokenizer.convert(tiny, longest=40).max_tokens == 40


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_tokenizer_is_named(tiny: Path, name: str) -> None:
    (tiny / "tokenizer" / name).unlink()
    with pytest.raises(ExportError, match=r"tiny has no tokenizer/vocab\.json with tokenizer/merges\.txt"):
        clip_tokenizer.present(tiny)


def test_damaged_tokenizer_is_named(tiny: Path) -> None:
    (tiny / "tokenizer/vocab.json").write_text("{")
    with pytest.raises(ExportError, match="tiny/tokenizer cannot be read as a CLIPTokenizer"):
        clip_tokenizer.convert(tiny, longest=77)


# --- previews


class LinearVae:
    """A VAE whose latents are colours of blocks, exactly: what a fit has to find is known."""

    config = SimpleNamespace(scaling_factor=0.5)
    matrix = torch.tensor([[0.3, 0.1, -0.2, 0.05], [0.0, 0.25, 0.1, -0.1], [-0.1, 0.0, 0.3, 0.2]])

    def encode(self, pixels: torch.Tensor) -> Any:
        blocks = torch.nn.functional.avg_pool2d(pixels, 8)
        mixed = torch.einsum("cr,nrhw->nchw", torch.linalg.pinv(self.matrix) * 2, blocks)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mixed))

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        colours = torch.einsum("rc,nchw->nrhw", self.matrix, latents / 2)
        return (torch.nn.functional.interpolate(colours, scale_factor=8),)


def test_a_linear_vae_is_fitted_exactly() -> None:
    fit = preview.fit(LinearVae())  # type: ignore[arg-type]

    assert np.array(fit.matrix).shape == (5, 3)
    assert fit.error < 1e-4
    np.testing.assert_allclose(fit.matrix[4], [0.5, 0.5, 0.5], atol=1e-3)


def test_pictures_of_the_fit_are_colourful_and_always_the_same() -> None:
    made = preview.pictures()
    assert made.shape == (preview.PICTURES, preview.SIDE, preview.SIDE, 3)
    assert (made == preview.pictures()).all()
    assert (made != preview.pictures(seed=1)).any()
    flat = made.reshape(-1, 3).astype(float)
    assert flat.std(axis=0).min() > 50
    assert np.abs(np.corrcoef(flat.T) - np.eye(3)).max() < 0.6
