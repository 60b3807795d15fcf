"""A checkpoint of SDXL's classes with random weights and its refiner, small enough to be exported in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from darkroom.pipelines.sdxl.checkpoint import ClipTokens, SdxlCheckpointInfo
from darkroom.pipelines.sdxl.pipeline import Components
from darkroom.pipelines.sdxl.prompts import PromptTokenizer
from darkroom.pipelines.sdxl.settings import Settings
from darkroom.serving.networks import Array, Network, Tensors
from exporters.graphs.clip import ServedPooledStatesEncoder, ServedStatesEncoder
from exporters.graphs.vae import ServedVaeDecoder, ServedVaeEncoder
from exporters.onnx_export import quiet
from exporters.sdxl import graphs
from tests import sd15_checkpoints
from tests.tiny_sd15 import network, plain_tokenizer
from training import networks
from training.tokens import write_tokenizer

SIDE = 64
WIDTHS = (16, 24)
"""Of the two text encoders."""
PROJECTION = 20
TIME_WIDTH = 8
"""Of the sinusoids of a number of the micro-conditioning."""
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
"""That of stabilityai/stable-diffusion-xl-base-1.0."""


def make_unet(*, width: int = sum(WIDTHS), ids: int = 6, **changes: Any) -> UNet2DConditionModel:
    """As SDXL's: no attention at the first level.

    :param width: of the embeddings.
    :param ids: numbers of the micro-conditioning.
    """
    settings: dict[str, Any] = {
        "sample_size": SIDE // 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (16, 32),
        "transformer_layers_per_block": (1, 2),
        "attention_head_dim": (2, 4),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "use_linear_projection": True,
        "cross_attention_dim": width,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": ids * TIME_WIDTH + PROJECTION,
    }
    return UNet2DConditionModel(**{**settings, **changes})


def make_refiner(*, scored: bool = True) -> UNet2DConditionModel:
    """It reads the second text encoder alone."""
    return make_unet(width=WIDTHS[1], ids=5 if scored else 6)


def make_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet of `unet` that does something; its weights are the same every time."""
    torch.manual_seed(2)
    return sd15_checkpoints.make_controlnet(unet).eval()


def make_pipeline(
    folder: Path, *, seed: int = 0, unet: Mapping[str, Any] | None = None, **settings: Any
) -> StableDiffusionXLPipeline:
    """diffusers' pipeline of tiny components; the weights are the same every time.

    :param folder: for the files of the tokenizers.
    :param unet: see `make_unet`.
    :param settings: of the scheduler, where they are not SDXL's.
    """
    torch.manual_seed(seed)
    write_tokenizer(folder / "words")
    with quiet():
        words = CLIPTokenizer.from_pretrained(folder / "words")
        others = CLIPTokenizer.from_pretrained(folder / "words", pad_token="!")  # as SDXL's second one has it
        common = {"layers": 3, "heads": 2}
        pipeline = StableDiffusionXLPipeline(
            vae=sd15_checkpoints.make_vae(scaling_factor=0.13025),
            text_encoder=CLIPTextModel(networks.clip_config(words, width=WIDTHS[0], **common)),
            text_encoder_2=CLIPTextModelWithProjection(
                networks.clip_config(others, width=WIDTHS[1], projection=PROJECTION, hidden_act="gelu", **common)
            ),
            tokenizer=words,
            tokenizer_2=others,
            unet=make_unet(**(unet or {})),
            scheduler=EulerDiscreteScheduler.from_config({**SCHEDULER, **settings}),
            add_watermarker=False,
        )
    return _quiet(pipeline)


def make_refiner_pipeline(base: StableDiffusionXLPipeline, *, scored: bool = True) -> StableDiffusionXLImg2ImgPipeline:
    """diffusers' pipeline of a refiner that shares the base's VAE and second text encoder, as in its documentation."""
    torch.manual_seed(1)
    with quiet():
        pipeline = StableDiffusionXLImg2ImgPipeline(
            vae=base.vae,
            text_encoder=None,
            text_encoder_2=base.text_encoder_2,
            tokenizer=None,
            tokenizer_2=base.tokenizer_2,
            unet=make_refiner(scored=scored),
            scheduler=EulerDiscreteScheduler.from_config(base.scheduler.config),
            requires_aesthetics_score=scored,
            add_watermarker=False,
        )
    return _quiet(pipeline)


def _quiet(pipeline: Any) -> Any:
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_checkpoint(folder: Path, *, seed: int = 0, **settings: Any) -> StableDiffusionXLPipeline:
    """The same, and `folder` in the diffusers layout."""
    pipeline = make_pipeline(folder.parent / f"{folder.name}-words", seed=seed, **settings)
    with quiet():
        pipeline.save_pretrained(folder)
    return pipeline


def write_refiner(
    folder: Path, base: StableDiffusionXLPipeline, *, scored: bool = True
) -> StableDiffusionXLImg2ImgPipeline:
    """The same, and `folder` in the diffusers layout."""
    pipeline = make_refiner_pipeline(base, scored=scored)
    with quiet():
        pipeline.save_pretrained(folder)
    return pipeline


def make_checkpoint(pipeline: StableDiffusionXLPipeline) -> SdxlCheckpointInfo:
    """What the exporter would write of a pipeline, but for the colours of previews."""
    tokenizers = (pipeline.tokenizer, pipeline.tokenizer_2)
    return SdxlCheckpointInfo(
        name="tiny",
        digest="0123456789",
        side=SIDE,
        scheduler={**pipeline.scheduler.config, "_class_name": type(pipeline.scheduler).__name__},
        latent_rgb=[[0.2, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 0.2], [0.1, 0.1, 0.1], [0.5, 0.5, 0.5]],
        steps=20,
        guidance_scale=7.0,
        force_zeros_for_empty_prompt=pipeline.config.force_zeros_for_empty_prompt,
        tokens=[
            {
                "max_tokens": 77,
                "bos_token_id": one.bos_token_id,
                "eos_token_id": one.eos_token_id,
                "pad_token_id": one.pad_token_id,
            }
            for one in tokenizers
        ],
        inpaints=pipeline.unet.config.in_channels == 9,
    )


def make_components(
    pipeline: StableDiffusionXLPipeline,
    refiner: StableDiffusionXLImg2ImgPipeline | None = None,
    controlnet: ControlNetModel | None = None,
) -> Components:
    """What our loop runs on: the pipelines' own networks, called as served ones are."""
    checkpoint = make_checkpoint(pipeline)
    tokenizers: list[Tokenizer] = [plain_tokenizer(one) for one in (pipeline.tokenizer, pipeline.tokenizer_2)]
    refined = None
    if refiner is not None:
        scored = bool(refiner.config.requires_aesthetics_score)
        refined = network(graphs.ServedRefinerUnet(refiner.unet, scored=scored), "noise_pred")
    controls = {} if controlnet is None else {"canny": graphs.ServedControlUnet(pipeline.unet, controlnet)}
    return Components(
        checkpoint=checkpoint,
        limits=Settings(),
        readers=[
            PromptTokenizer(tokenizer=one, tokens=ClipTokens(**special))
            for one, special in zip(tokenizers, checkpoint.tokens, strict=True)
        ],
        text_encoders=[
            network(ServedStatesEncoder(pipeline.text_encoder), "prompt_embeds"),
            _pooled(ServedPooledStatesEncoder(pipeline.text_encoder_2)),
        ],
        unet=network(graphs.ServedUnet(pipeline.unet), "noise_pred"),
        refiner_unet=refined,
        control_unets={kind: network(module, "noise_pred") for kind, module in controls.items()},
        vae_encoder=network(ServedVaeEncoder(pipeline.vae), "mean", "std"),
        vae_decoder=network(ServedVaeDecoder(pipeline.vae), "image"),
    )


def _pooled(module: nn.Module) -> Network:
    async def call(inputs: Tensors) -> dict[str, Array]:
        with torch.no_grad():
            states, pooled = module(torch.from_numpy(inputs["input_ids"]))
        return {"prompt_embeds": states.numpy(), "text_embeds": pooled.numpy()}

    return call
