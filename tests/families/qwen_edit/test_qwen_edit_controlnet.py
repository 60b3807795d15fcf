"""Edits through a ControlNet of Qwen-Image, against a loop of diffusers' own modules: its edit pipeline, whose
transformer is given the residuals of its ControlNet."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImageControlNetModel

from darkroom.diffusion.maps import load_maps
from darkroom.diffusion.shares import acts_at
from darkroom.errors import Conflict, InvalidInput
from darkroom.pipelines.qwen_edit.controlnet import load_controlnet
from darkroom.pipelines.qwen_edit.networks import TRANSFORMER
from darkroom.pipelines.qwen_edit.pipeline import Components
from darkroom.pipelines.qwen_edit.tokens import pack, padded, padded_grids
from darkroom.pipelines.qwen_edit.transformer import load_transformer, predict
from darkroom.png import encode_png
from exporters.config import Placement, config_path, render, write_configs
from exporters.errors import ExportError
from exporters.placement import correct
from exporters.qwen_edit import graphs, weights
from tests.families.qwen_edit import tiny
from tests.families.qwen_edit.edits import FIRST, SECOND, TOLERANCE, Pictures, difference, ours, picture, theirs

STEPS = 4
MAP = picture(FIRST, seed=9)


@dataclass(frozen=True)
class Checkpoint:
    pipeline: Any
    controlnet: QwenImageControlNetModel
    components: Components
    folder: Path


@pytest.fixture(scope="module", params=[("edit", 1), ("2509", 2), ("2511", 2)], ids=lambda one: one[0])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    kind, layers = request.param
    folder = tmp_path_factory.mktemp(kind)
    pipeline = tiny.write_checkpoint(folder / "checkpoint", plus=kind != "edit", zero_cond_t=kind == "2511")
    controlnet = tiny.write_controlnet(folder / "steering", layers=layers)
    components = tiny.make_components(
        pipeline, folder / "checkpoint", folder / "models", controlnet=folder / "steering"
    )
    return Checkpoint(pipeline, controlnet, components, folder)


@contextlib.contextmanager
def steered(checkpoint: Checkpoint, map: Pictures, *, scale: float, start: float, end: float) -> Iterator[None]:
    """Has diffusers' pipeline edit with its ControlNet, as QwenImageControlNetPipeline makes images: it reads the noisy
    image and the prompt, and both rows of a guided step get the same."""
    pixels = torch.from_numpy(map).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    vae = checkpoint.pipeline.vae
    mean, std = graphs.latents_scale(vae)
    with torch.no_grad():
        control = pack((vae.encode(pixels).latent_dist.mode()[:, :, 0] - mean) / std)
    calls: list[tuple[float, list[torch.Tensor] | None]] = []

    def add(module: Any, arguments: Any, named: dict[str, Any]) -> Any:
        time = float(named["timestep"][0])
        if not calls or calls[-1][0] != time:
            acts = acts_at(len(calls), STEPS, start, end)
            calls.append((time, checkpoint_residuals(checkpoint.controlnet, control, named, scale) if acts else None))
        named["controlnet_block_samples"] = calls[-1][1]
        return arguments, named

    hook = checkpoint.pipeline.transformer.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
    assert len(calls) == STEPS


def checkpoint_residuals(
    controlnet: QwenImageControlNetModel, control: torch.Tensor, named: dict[str, Any], scale: float
) -> list[torch.Tensor]:
    """What diffusers' ControlNet says of the noisy image, with zeros for the references behind it."""
    tokens = named["hidden_states"]
    noisy = control.shape[1]
    samples = controlnet(
        hidden_states=tokens[:, :noisy],
        controlnet_cond=control.expand(len(tokens), -1, -1),
        conditioning_scale=scale,
        timestep=named["timestep"],
        encoder_hidden_states=named["encoder_hidden_states"],
        encoder_hidden_states_mask=named["encoder_hidden_states_mask"],
        img_shapes=[shapes[:1] for shapes in named["img_shapes"]],
        return_dict=False,
    )
    return [torch.nn.functional.pad(one, (0, 0, 0, tokens.shape[1] - noisy)) for one in samples]


@pytest.mark.parametrize(
    ("negative", "scale", "start", "end", "count"),
    [(None, 1.0, 0.0, 1.0, 1), ("a dog", 0.7, 0.0, 1.0, 1), (" ", 1.0, 0.25, 0.75, 2)],
)
def test_qwen_edit_with_a_controlnet_is_a_loop_of_diffusers_modules(
    checkpoint: Checkpoint, negative: str | None, scale: float, start: float, end: float, count: int
) -> None:
    plus = checkpoint.components.checkpoint.plus
    images = [picture(FIRST), *([picture(SECOND, 1)] if plus else [])]
    fields = {"seed": 7, "steps": STEPS, "negative_prompt": negative, "num_images": count}
    shares = {"control_guidance_start": start, "control_guidance_end": end}
    mine = ours(
        checkpoint.components,
        images,
        control_image=encode_png(MAP),
        controlnet_conditioning_scale=scale,
        **shares,
        **fields,
    )
    with steered(checkpoint, MAP, scale=scale, start=start, end=end):
        other = theirs(
            checkpoint.pipeline,
            images,
            size=FIRST,
            seed=7,
            num_inference_steps=STEPS,
            negative_prompt=negative,
            true_cfg_scale=4.0,
            num_images=count,
        )
    assert difference(mine, other) <= TOLERANCE
    assert difference(mine, ours(checkpoint.components, images, **fields)) > 3 * TOLERANCE


def test_qwen_edit_map_that_is_made_goes_through_the_controlnet(checkpoint: Checkpoint) -> None:
    with_maps = replace(checkpoint.components, maps=load_maps({}))
    first = picture(FIRST)
    made = ours(with_maps, [first], seed=7, make_map="edges")
    sent = ours(with_maps, [first], seed=7, control_image=encode_png(with_maps.maps["edges"](first)))
    assert difference(made, sent) == 0
    assert difference(made, ours(with_maps, [first], seed=7)) > TOLERANCE


def test_qwen_edit_control_image_is_framed_as_the_first_image(checkpoint: Checkpoint) -> None:
    """Sides that are no multiples of 16: a map of another size, but of the same content, gives nearly the same."""
    first, even = picture((100, 76)), np.full((76, 100, 3), 200, np.uint8)
    even[:, 50:] = 30
    double = even.repeat(2, 0).repeat(2, 1)
    one, other = (ours(checkpoint.components, [first], seed=7, control_image=encode_png(map)) for map in (even, double))
    assert one.shape == (1, 76, 100, 3)
    assert np.abs(one.astype(int) - other.astype(int)).mean() < 3


def test_qwen_edit_control_without_a_controlnet_is_refused(tmp_path: Path) -> None:
    pipeline = tiny.write_checkpoint(tmp_path / "checkpoint", plus=True)
    components = tiny.make_components(pipeline, tmp_path / "checkpoint", tmp_path / "models")
    with pytest.raises(Conflict, match="checkpoint has no ControlNet; QWEN_EDIT_CONTROLNET names one"):
        ours(components, [picture(FIRST)], seed=7, control_image=encode_png(MAP))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"control_guidance_start": 0.5, "control_guidance_end": 0.5}, "control_guidance_start"),
        ({"controlnet_conditioning_scale": 2.5}, "controlnet_conditioning_scale"),
        ({"control_image": b"none"}, "control_image"),
        ({"control_image": encode_png(MAP), "make_map": "edges"}, "make_map"),
    ],
)
def test_qwen_edit_control_fields_out_of_range_are_refused(
    checkpoint: Checkpoint, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        ours(checkpoint.components, [picture(FIRST)], seed=7, **fields)
    assert caught.value.param == param


def test_qwen_edit_rows_with_a_controlnet_share_a_batch(checkpoint: Checkpoint) -> None:
    """Rows of other sizes and texts, with numbers in the padding that must not count."""
    random = np.random.default_rng(0)
    grids, texts, steering = [[(4, 6)], [(2, 3), (6, 4)], [(5, 5), (2, 2)]], [20, 3, 41], [9, 33, 14]

    def tokens(count: int, width: int) -> Any:
        return random.normal(size=(count, width)).astype(np.float32)

    inputs: dict[str, Any] = {
        "hidden_states": padded([tokens(sum(h * w for h, w in row), 64) for row in grids]),
        "grids": np.stack([padded_grids(row) for row in grids]),
        "timestep": np.array([[999.0], [500.5], [3.25]], np.float32),
        "encoder_hidden_states": padded([tokens(count, tiny.WIDTH) for count in texts]),
        "text_tokens": np.array(texts, np.int32)[:, None],
        "control_tokens": padded([tokens(math.prod(row[0]), 64) for row in grids]),
        "control_scale": np.array([[1.0], [0.5], [2.0]], np.float32),
        "control_hidden_states": padded([tokens(count, tiny.WIDTH) for count in steering]),
        "control_text_tokens": np.array(steering, np.int32)[:, None],
    }
    for row, grid in enumerate(grids):
        inputs["control_tokens"][row, math.prod(grid[0]) :] = 50.0
        inputs["control_hidden_states"][row, steering[row] :] = 50.0
    place: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}
    model = load_transformer(checkpoint.folder / "checkpoint" / "transformer", **place)
    controlnet = load_controlnet(checkpoint.folder / "steering", **place)
    together = predict(model, tiny.as_torch(inputs), controlnet)
    plain = predict(model, tiny.as_torch({n: v for n, v in inputs.items() if not n.startswith("control_")}))
    for row, grid in enumerate(grids):
        alone = predict(model, tiny.as_torch({n: v[row : row + 1] for n, v in inputs.items()}), controlnet)
        noisy = math.prod(grid[0])
        torch.testing.assert_close(together[row, :noisy], alone[0, :noisy], rtol=1e-4, atol=1e-5)
        assert not together[row, noisy:].any()
        assert (together[row, :noisy] - plain[row, :noisy]).abs().max() > 0.01
    with pytest.raises(ValueError, match="needs a ControlNet"):
        predict(model, tiny.as_torch(inputs))
    wide, longer = np.stack([padded_grids([(20, 20)])] * 3), padded([tokens(400, 64)] * 3)
    too_long = tiny.as_torch({**inputs, "grids": wide, "hidden_states": longer})
    with pytest.raises(ValueError, match="control_tokens has 256 tokens in each row"):
        predict(model, too_long, controlnet)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"joint_attention_dim": 48}, "joint_attention_dim is 48, expected 32, as the transformer of checkpoint"),
        ({"num_attention_heads": 8}, "num_attention_heads is 8, expected 4"),
        ({"extra_condition_channels": 4}, "extra_condition_channels is 4, expected 0"),
    ],
)
def test_qwen_edit_controlnet_of_another_transformer_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    tiny.write_controlnet(tmp_path, **changes)
    transformer = weights.read_checkpoint(checkpoint.folder / "checkpoint").parts[weights.TRANSFORMER]
    with pytest.raises(ExportError, match=text):
        weights.read_controlnet(tmp_path, transformer)


def test_qwen_edit_export_without_a_controlnet_takes_it_away(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, steering = checkpoint.folder / "checkpoint", checkpoint.folder / "steering"
    served = tiny.exported_transformer(source, tmp_path, controlnet=steering)
    assert {path.name for path in (served / "controlnet").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert tiny.exported(source, tmp_path, controlnet=steering).controlnet == "steering"
    assert tiny.exported_transformer(source, tmp_path) == served
    assert not (served / "controlnet").exists()
    assert (served / "diffusion_pytorch_model.safetensors").is_file()
    assert tiny.exported(source, tmp_path).controlnet == ""


def test_qwen_edit_config_of_an_older_version_gets_the_inputs_of_the_controlnet(tmp_path: Path) -> None:
    older = replace(TRANSFORMER, inputs=tuple(one for one in TRANSFORMER.inputs if not one.optional))
    write_configs(tmp_path, [older], Placement(instances=3))
    path = config_path(tmp_path, TRANSFORMER)
    assert "control_tokens" not in path.read_text()
    correct(tmp_path, TRANSFORMER)
    assert path.read_text() == render(TRANSFORMER, Placement(instances=3))
