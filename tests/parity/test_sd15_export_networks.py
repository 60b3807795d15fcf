"""Networks that were exported of a tiny SD 1.5 checkpoint, against diffusers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.attention_processor import Attention
from torch import Tensor

from darkroom.diffusion.schedulers import make_scheduler
from darkroom.pipelines.sd15 import networks
from darkroom.serving.networks import Array, Network, OrtNetwork, Tensors
from exporters import onnx_export
from exporters.export import TOLERANCE
from exporters.graphs.fused_attention import OPERATOR, spell_out
from exporters.manifest import Precision
from tests import tiny_sd15
from tests.sd15_checkpoints import WIDTH
from tests.sd15_exports import Floats, Sd15Export, noise, pixels

PICTURE_TOLERANCE = {"fp32": 2, "fp16": 4}
"""Levels of 255 that any pixel of a finished picture may differ from diffusers' in fp32."""


def agree(ours: Floats, theirs: Tensor, precision: Precision) -> None:
    expected = theirs.detach().numpy()
    assert (ours.shape, ours.dtype) == (expected.shape, np.float32)
    assert np.abs(ours - expected).max() <= TOLERANCE[precision].relative * np.abs(expected).max()


# Latents of any size, odd ones too; one, two and three chunks of a prompt; a batch of 1.
UNET_SHAPES = [(1, 9, 13, 77), (2, 16, 16, 154), (1, 24, 8, 231), (3, 8, 15, 77), (1, 11, 10, 77), (1, 8, 8, 1)]


@pytest.mark.parametrize(("rows", "height", "width", "tokens"), UNET_SHAPES)
def test_unet(sd15_export: Sd15Export, rows: int, height: int, width: int, tokens: int) -> None:
    latents, embeds = noise(rows, 4, height, width), noise(rows, tokens, WIDTH, seed=1)
    times = np.linspace(999, 0.5, rows, dtype=np.float32)[:, None]
    inputs = {"latents": latents, "timestep": times, "prompt_embeds": embeds}

    ours = sd15_export.network(networks.UNET).run(inputs)["noise_pred"]

    with torch.no_grad():
        theirs = sd15_export.pipeline.unet(
            torch.tensor(latents), torch.tensor(times[:, 0]), torch.tensor(embeds)
        ).sample
    agree(ours, theirs, sd15_export.precision)


@pytest.mark.parametrize(("rows", "height", "width", "tokens"), UNET_SHAPES)
def test_controlled_unet(sd15_export: Sd15Export, rows: int, height: int, width: int, tokens: int) -> None:
    """Each row with a scale of its own, where diffusers has one for all rows."""
    latents, embeds = noise(rows, 4, height, width), noise(rows, tokens, WIDTH, seed=1)
    times = np.linspace(999, 0.5, rows, dtype=np.float32)[:, None]
    image, scales = pixels(rows, 8 * height, 8 * width, 3), np.linspace(1, 0.3, rows, dtype=np.float32)[:, None]
    inputs = {"latents": latents, "timestep": times, "prompt_embeds": embeds}
    inputs |= {"control_image": image, "controlnet_conditioning_scale": scales}

    ours = sd15_export.network(networks.CONTROL_UNETS["canny"]).run(inputs)["noise_pred"]

    for row in range(rows):
        call = [torch.tensor(value[row : row + 1]) for value in (latents, times[:, 0], embeds)]
        picture = torch.tensor(image[row : row + 1]).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            down, middle = sd15_export.controlnet(
                *call, controlnet_cond=picture, conditioning_scale=float(scales[row, 0]), return_dict=False
            )
            theirs = sd15_export.pipeline.unet(
                *call, down_block_additional_residuals=down, mid_block_additional_residual=middle
            ).sample
            plain = sd15_export.pipeline.unet(*call).sample
        agree(ours[row : row + 1], theirs, sd15_export.precision)
        assert (theirs - plain).abs().max() > 0.1 * plain.abs().max(), "the control should do something"


def test_control_of_scale_0_is_the_plain_unet(sd15_fp32: Sd15Export) -> None:
    inputs = {"latents": noise(1, 4, 9, 8), "timestep": np.array([[500]], np.float32)}
    inputs["prompt_embeds"] = noise(1, 77, WIDTH, seed=1)
    control = {"control_image": pixels(1, 72, 64, 3), "controlnet_conditioning_scale": np.zeros((1, 1), np.float32)}

    controlled = sd15_fp32.network(networks.CONTROL_UNETS["canny"]).run({**inputs, **control})["noise_pred"]

    plain = sd15_fp32.network(networks.UNET).run(inputs)["noise_pred"]
    np.testing.assert_allclose(controlled, plain, atol=1e-5)


def test_control_picture_is_read_as_diffusers_reads_it(sd15_fp32: Sd15Export) -> None:
    """StableDiffusionControlNetPipeline prepares the picture, then its own ControlNet and UNet."""
    image = pixels(72, 64, 3)
    with onnx_export.quiet():
        pipeline = StableDiffusionControlNetPipeline.from_pipe(sd15_fp32.pipeline, controlnet=sd15_fp32.controlnet)
        prepared = pipeline.prepare_image(VaeImageProcessor.numpy_to_pil(image / 255)[0], 64, 72, 1, 1, "cpu", None)
    np.testing.assert_array_equal(prepared[0].permute(1, 2, 0).numpy(), image.astype(np.float32) / 255)


def test_rows_of_other_timesteps_do_not_touch_each_other(sd15_fp32: Sd15Export) -> None:
    inputs = {"latents": noise(3, 4, 9, 8), "timestep": np.array([[999], [501.25], [1]], np.float32)}
    inputs["prompt_embeds"] = noise(3, 77, WIDTH, seed=1)
    network = sd15_fp32.network(networks.UNET)

    together = network.run(inputs)["noise_pred"]

    for row in range(3):
        alone = network.run({name: value[row : row + 1] for name, value in inputs.items()})["noise_pred"]
        np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-5)
    other = network.run({**inputs, "timestep": np.full((3, 1), 999, np.float32)})["noise_pred"]
    assert np.abs(other[1] - together[1]).max() > 1e-3


@pytest.mark.parametrize(("rows", "tokens"), [(1, 77), (3, 77), (2, 5), (1, 1)])
def test_text_encoder(sd15_export: Sd15Export, rows: int, tokens: int) -> None:
    ids = np.random.default_rng(0).integers(0, sd15_export.pipeline.text_encoder.config.vocab_size, (rows, tokens))

    ours = sd15_export.network(networks.TEXT_ENCODER).run({"input_ids": ids})["prompt_embeds"]

    with torch.no_grad():
        agree(ours, sd15_export.pipeline.text_encoder(torch.tensor(ids)).last_hidden_state, sd15_export.precision)


@pytest.mark.parametrize(("rows", "height", "width"), [(1, 9, 13), (2, 16, 8), (1, 8, 8)])
def test_vae_encoder(sd15_export: Sd15Export, rows: int, height: int, width: int) -> None:
    image = pixels(rows, 8 * height, 8 * width, 3)

    ours = sd15_export.network(networks.VAE_ENCODER).run({"image": image})

    with torch.no_grad():
        prepared = VaeImageProcessor().preprocess(torch.tensor(image).permute(0, 3, 1, 2) / 255)
        posterior = sd15_export.pipeline.vae.encode(prepared).latent_dist
    factor = sd15_export.pipeline.vae.config.scaling_factor
    agree(ours["mean"], posterior.mean * factor, sd15_export.precision)
    agree(ours["std"], posterior.std * factor, sd15_export.precision)


@pytest.mark.parametrize(("rows", "height", "width"), [(1, 9, 13), (2, 16, 8), (1, 8, 8)])
def test_vae_decoder(sd15_export: Sd15Export, rows: int, height: int, width: int) -> None:
    latents = noise(rows, 4, height, width)

    ours = sd15_export.network(networks.VAE_DECODER).run({"latents": latents})["image"]

    vae = sd15_export.pipeline.vae
    with torch.no_grad():
        decoded = vae.decode(torch.tensor(latents) / vae.config.scaling_factor).sample
    theirs = np.stack([np.asarray(image) for image in sd15_export.pipeline.image_processor.postprocess(decoded)])
    assert (ours.shape, ours.dtype) == ((rows, 8 * height, 8 * width, 3), np.uint8)
    distance = np.abs(ours.astype(int) - theirs.astype(int))
    assert theirs.std() > 20, "a flat picture would prove nothing"
    assert distance.max() <= TOLERANCE[sd15_export.precision].levels
    if sd15_export.precision == "fp32":  # a value near a half may round to either side
        assert np.count_nonzero(distance) <= 0.002 * distance.size


@pytest.mark.parametrize("scheduler", ["euler", "dpmpp_2m_karras"])
def test_whole_pictures(sd15_export: Sd15Export, scheduler: str) -> None:
    """The loop on the exported networks, against diffusers in fp32: what a step is off, the next one begins with."""

    def served(spec: Any) -> Network:
        network = sd15_export.network(spec)

        async def call(inputs: Tensors) -> dict[str, Array]:
            return network.run(inputs)

        return call

    components = dataclasses.replace(
        tiny_sd15.make_components(sd15_export.pipeline),
        text_encoder=served(networks.TEXT_ENCODER),
        unet=served(networks.UNET),
        vae_decoder=served(networks.VAE_DECODER),
    )
    fields = {"prompt": "a cat", "seed": 3, "num_images": 2, "guidance_scale": 7.5, "width": 72, "height": 64}
    ours = tiny_sd15.our_pictures(components, steps=10, scheduler=scheduler, **fields)
    sd15_export.pipeline.scheduler = make_scheduler(scheduler, components.checkpoint.scheduler)
    theirs = tiny_sd15.their_pictures(sd15_export.pipeline, num_inference_steps=10, **fields)
    assert theirs.std() > 20, "a flat picture would prove nothing"
    assert np.abs(ours.astype(int) - theirs).max() <= PICTURE_TOLERANCE[sd15_export.precision]


def test_tensors_are_those_of_the_configs(sd15_export: Sd15Export) -> None:
    types = {"FP32": "tensor(float)", "UINT8": "tensor(uint8)", "INT64": "tensor(int64)"}
    for spec in networks.networks():
        session = sd15_export.network(spec).session
        for tensors, specs in ((session.get_inputs(), spec.inputs), (session.get_outputs(), spec.outputs)):
            assert [(t.name, t.type) for t in tensors] == [(s.name, types[s.dtype]) for s in specs]
            for tensor, wanted in zip(tensors, specs, strict=True):
                found = [size if isinstance(size, int) else -1 for size in tensor.shape]
                # The widths of a checkpoint's embeddings are numbers in its graphs.
                assert len(found) == len(wanted.dims) + 1
                assert found[0] == -1
                assert all(want in (-1, size) for size, want in zip(found[1:], wanted.dims, strict=True))


def test_attention_is_one_operator_and_can_be_spelled_out(sd15_export: Sd15Export, tmp_path: Path) -> None:
    """Engines that do not know ONNX Runtime's operator get the same graph in ONNX's own ones."""
    spec = networks.CONTROL_UNETS["canny"]
    model = onnx.load(sd15_export.repository / spec.name / "1" / "model.onnx")
    fused = sum(node.op_type == OPERATOR for node in model.graph.node)
    attentions = [module for module in sd15_export.pipeline.unet.modules() if isinstance(module, Attention)]
    assert fused > len(attentions) > 0

    spell_out(model)

    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert {entry.domain for entry in model.opset_import} <= {"", "pkg.onnxscript.torch_lib.common"}
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    inputs = {"latents": noise(2, 4, 9, 13), "timestep": np.array([[999], [3]], np.float32)}
    inputs |= {"prompt_embeds": noise(2, 77, WIDTH, seed=1), "control_image": pixels(2, 72, 104, 3)}
    inputs["controlnet_conditioning_scale"] = np.ones((2, 1), np.float32)
    theirs = torch.tensor(sd15_export.network(spec).run(inputs)["noise_pred"])
    agree(OrtNetwork(path).run(inputs)["noise_pred"], theirs, sd15_export.precision)
