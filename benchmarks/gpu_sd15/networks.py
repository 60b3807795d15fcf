"""Network by network: how far ONNX Runtime and diffusers are from diffusers in fp32, given the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from benchmarks.errors import BenchmarkError
from benchmarks.gpu_sd15.plan import Work
from benchmarks.sd15.caps import unet_inputs
from benchmarks.sd15.loop import exported
from darkroom.pipelines.sd15.networks import TEXT_ENCODER, UNET, VAE_DECODER
from darkroom.serving.networks import Array, ModelSpec, OrtNetwork


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One network, its inputs, and what diffusers' pipeline makes of them."""

    spec: ModelSpec
    inputs: Mapping[str, Array]
    theirs: Callable[[Any, Mapping[str, Tensor]], Tensor]


def _encode(pipeline: Any, given: Mapping[str, Tensor]) -> Tensor:
    states: Tensor = pipeline.text_encoder(given["input_ids"]).last_hidden_state
    return states


def _predict(pipeline: Any, given: Mapping[str, Tensor]) -> Tensor:
    latents, embeds = (given[name].to(pipeline.unet.dtype) for name in ("latents", "prompt_embeds"))
    predicted: Tensor = pipeline.unet(latents, given["timestep"][:, 0], embeds, return_dict=False)[0]
    return predicted


def _decode(pipeline: Any, given: Mapping[str, Tensor]) -> Tensor:
    latents = given["latents"].to(pipeline.vae.dtype) / pipeline.vae.config.scaling_factor
    decoded: Tensor = pipeline.vae.decode(latents, return_dict=False)[0]
    return ((decoded.float() / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)


@torch.inference_mode()
def compare(work: Work, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Say for each network how far both are from fp32: the largest difference as a share of the largest value.

    :raises BenchmarkError: there is no export, or it does not run on the device of the case.
    """
    case = work.case()
    half = torch.float16 if case.precision == "fp16" else torch.float32
    exact, rounded = (
        StableDiffusionPipeline.from_pretrained(work.checkpoint).to(case.device, dtype)
        for dtype in (torch.float32, half)
    )
    side, width = case.side // 8, int(exact.text_encoder.config.hidden_size)
    unet = unet_inputs(2, side, width)
    ids = np.full((2, 77), exact.tokenizer.eos_token_id, np.int64)
    words = exact.tokenizer("a cat").input_ids
    ids[:, : len(words)] = words
    found = {}
    for one in (
        Comparison(spec=TEXT_ENCODER, inputs={"input_ids": ids}, theirs=_encode),
        Comparison(spec=UNET, inputs=unet, theirs=_predict),
        Comparison(spec=VAE_DECODER, inputs={"latents": unet["latents"][:1]}, theirs=_decode),
    ):
        try:
            network = OrtNetwork(exported(work.repository, one.spec), device=case.device)
        except RuntimeError as error:
            raise BenchmarkError(str(error)) from None
        ours = network.run(one.inputs)[one.spec.outputs[0].name].astype(np.float64)
        given = {name: torch.from_numpy(array).to(case.device) for name, array in one.inputs.items()}
        truth, theirs = (one.theirs(pipeline, given).double().cpu().numpy() for pipeline in (exact, rounded))
        scale = np.abs(truth).max()
        found[one.spec.name] = {
            "onnxruntime": float(np.abs(ours - truth).max() / scale),
            "diffusers": float(np.abs(theirs - truth).max() / scale),
        }
        said = ", ".join(f"{who} {value:.1e}" for who, value in found[one.spec.name].items())
        say(f"{one.spec.name}, largest difference from fp32 as a share of the largest value: {said}")
    return found
