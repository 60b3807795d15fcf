"""A checkpoint of Qwen-Image-Edit's classes with random weights, small enough for a CPU, and a `Components` on it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageControlNetModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from tokenizers import AddedToken, Tokenizer
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.checkpoint import TOKENIZER_NAME, QwenEditCheckpointInfo
from darkroom.pipelines.qwen_edit.controlnet import load_controlnet
from darkroom.pipelines.qwen_edit.pipeline import Components
from darkroom.pipelines.qwen_edit.prompts import PromptReader, make_processor
from darkroom.pipelines.qwen_edit.settings import Settings
from darkroom.pipelines.qwen_edit.text_encoder import encode, load_text_encoder
from darkroom.pipelines.qwen_edit.transformer import load_transformer, predict
from darkroom.serving.networks import Array, ModelSpec, Tensors
from exporters.checkpoints.origin import Origin
from exporters.merged_lora import LoraFile
from exporters.onnx_export import quiet
from exporters.qwen_edit import graphs
from exporters.qwen_edit.command import family_tasks
from tests.tiny_sd15 import network
from training.tokens import byte_characters

WIDTH = 32
"""Of the text encoder."""
CONDITION_AREA = 64 * 64
REFERENCE_AREA = 96 * 96
"""In pixels; diffusers' pipelines have about a megapixel fixed in their code."""
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "invert_sigmas": False,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
"""That of Qwen/Qwen-Image-Edit."""


def make_tokenizer() -> Qwen2Tokenizer:
    """A token per byte, which is byte-level BPE before its first merge, and the special ones."""
    vocabulary = {token: index for index, token in enumerate(byte_characters())}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], unk_token=None, pad_token="<|endoftext|>")
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(token, special=True, normalized=False) for token in SPECIAL]}
    )
    return tokenizer


def make_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Two layers of text and of vision. Its random weights are large, so that texts and images make a difference."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "initializer_range": 0.3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_heads": 4,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [1],
            "window_size": 56,
            "initializer_range": 0.3,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def make_vae() -> AutoencoderKLQwenImage:
    """Eight channels at the highest resolution."""
    return AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1)


def make_transformer(**changes: Any) -> QwenImageTransformer2DModel:
    """Two blocks with four heads. What they read of texts and references is made large, or it would hardly count."""
    settings: dict[str, Any] = {
        "patch_size": 2,
        "in_channels": 64,
        "out_channels": 16,
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 4,
        "joint_attention_dim": WIDTH,
        "axes_dims_rope": (4, 6, 6),
    }
    model = QwenImageTransformer2DModel(**{**settings, **changes})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in ("_v_proj.", ".to_v.", ".to_out.", "img_mod.")):
                weight *= 4
    return model


def write_controlnet(folder: Path, *, layers: int = 1, **changes: Any) -> QwenImageControlNetModel:
    """A ControlNet for `make_transformer`, and `folder` in the diffusers layout. Its outputs, which begin as zeros, are
    made large."""
    torch.manual_seed(5)
    settings: dict[str, Any] = {
        "num_layers": layers,
        "attention_head_dim": 16,
        "num_attention_heads": 4,
        "joint_attention_dim": WIDTH,
        "axes_dims_rope": (4, 6, 6),
    }
    model = QwenImageControlNetModel(**{**settings, **changes}).eval().requires_grad_(False)
    for module in (*model.controlnet_blocks, model.controlnet_x_embedder):
        torch.nn.init.normal_(module.weight, std=0.2)
    with quiet():
        model.save_pretrained(folder)
    return model


def make_pipeline(*, plus: bool, zero_cond_t: bool = False, seed: int = 0) -> Any:
    """diffusers' pipeline of tiny components; the weights are the same every time.

    Qwen2VLProcessor wants a processor for videos, which needs torchvision; without one it works for images.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    with mock.patch.object(Qwen2VLProcessor, "check_argument_for_proper_class"):
        processor = Qwen2VLProcessor(image_processor=Qwen2VLImageProcessorPil(), tokenizer=tokenizer)
    pipeline = (QwenImageEditPlusPipeline if plus else QwenImageEditPipeline)(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=make_vae(),
        text_encoder=make_text_encoder(tokenizer),
        tokenizer=tokenizer,
        processor=processor,
        transformer=make_transformer(zero_cond_t=zero_cond_t),
    )
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.set_progress_bar_config(disable=True)
    _with_image_positions(pipeline.text_encoder)
    return pipeline


def _with_image_positions(encoder: Qwen2_5_VLForConditionalGeneration) -> None:
    """Give the encoder what diffusers forgets: which tokens are images (huggingface/diffusers#14194)."""

    def add(module: Any, arguments: Any, named: dict[str, Any]) -> Any:
        named["mm_token_type_ids"] = (named["input_ids"] == encoder.config.image_token_id).int()
        return arguments, named

    encoder.register_forward_pre_hook(add, with_kwargs=True)


@contextlib.contextmanager
def small_areas() -> Iterator[None]:
    """Has diffusers' pipelines look at images in CONDITION_AREA and REFERENCE_AREA instead of about a megapixel."""
    calculate = pipeline_qwenimage_edit.calculate_dimensions
    with (
        mock.patch.object(pipeline_qwenimage_edit_plus, "CONDITION_IMAGE_SIZE", CONDITION_AREA),
        mock.patch.object(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", REFERENCE_AREA),
        mock.patch.object(
            pipeline_qwenimage_edit, "calculate_dimensions", lambda _, ratio: calculate(REFERENCE_AREA, ratio)
        ),
    ):
        yield


def write_checkpoint(folder: Path, *, plus: bool, zero_cond_t: bool = False, seed: int = 0) -> Any:
    """The pipeline, and `folder` in the diffusers layout."""
    pipeline = make_pipeline(plus=plus, zero_cond_t=zero_cond_t, seed=seed)
    with quiet(), mock.patch.object(Qwen2VLProcessor, "save_pretrained", _save_image_processor):
        pipeline.save_pretrained(folder)
    areas = {"condition_area": CONDITION_AREA, "reference_area": REFERENCE_AREA, "steps": 4}
    (folder / "generation_config.json").write_text(json.dumps(areas))
    return pipeline


def _save_image_processor(processor: Qwen2VLProcessor, folder: Path, **_: Any) -> None:
    processor.image_processor.save_pretrained(folder)


def exported(
    folder: Path, repository: Path, lora: LoraFile | None = None, controlnet: Path | None = None
) -> QwenEditCheckpointInfo:
    """What the exporter writes for the loop about a checkpoint in `folder`: pipeline.json and the tokenizer."""
    return QwenEditCheckpointInfo.read(_export(networks.PIPELINE, folder, repository, lora, controlnet))


def exported_transformer(
    folder: Path, repository: Path, lora: LoraFile | None = None, controlnet: Path | None = None
) -> Path:
    """The folder with what the exporter makes of the transformer of a checkpoint in `folder`."""
    return _export(networks.TRANSFORMER, folder, repository, lora, controlnet)


def _export(
    spec: ModelSpec, folder: Path, repository: Path, lora: LoraFile | None, controlnet: Path | None = None
) -> Path:
    source, steering = (_origin(path) for path in (folder, controlnet or folder))
    tasks = family_tasks(source, repository, lora=lora, controlnet=steering if controlnet else None)
    (task,) = (task for task in tasks if task.spec == spec)
    task.export(lambda stage: None)
    return task.folder


def _origin(folder: Path) -> Origin:
    return Origin.of(str(folder), folder.parent, lambda name: Path(name))


def make_components(
    pipeline: Any,
    folder: Path,
    repository: Path,
    lora: LoraFile | None = None,
    *,
    controlnet: Path | None = None,
    int8: bool = False,
) -> Components:
    """What our loop runs on: the pipeline's own VAE, called as served ones are, and the other networks, read again from
    the checkpoint.

    :param folder: the checkpoint of the pipeline.
    :param repository: for what `exported` writes.
    :param lora: becomes part of the transformer.
    :param controlnet: a folder in the diffusers layout; None for none.
    :param int8: of the weights of the text encoder and the transformer.
    """
    checkpoint = exported(folder, repository, lora, controlnet)
    place: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32, "int8": int8}
    served = exported_transformer(folder, repository, lora, controlnet)
    transformer = load_transformer(served, **place)
    steering = load_controlnet(served / networks.CONTROLNET_FOLDER, **place) if controlnet else None
    encoder = load_text_encoder(folder / "text_encoder", **place)

    async def predicted(inputs: Tensors) -> dict[str, Array]:
        return {"noise_pred": predict(transformer, as_torch(inputs), steering).numpy()}

    async def encoded(inputs: Tensors) -> dict[str, Array]:
        return {"prompt_embeds": encode(encoder, as_torch(inputs)).numpy()}

    return Components(
        checkpoint=checkpoint,
        limits=Settings(),
        reader=PromptReader(
            checkpoint=checkpoint,
            tokenizer=Tokenizer.from_file(str(repository / networks.PIPELINE.name / "1" / TOKENIZER_NAME)),
            processor=make_processor(checkpoint),
        ),
        text_encoder=encoded,
        transformer=predicted,
        vae_encoder=network(graphs.ServedVaeEncoder(pipeline.vae), "mean"),
        vae_decoder=network(graphs.ServedVaeDecoder(pipeline.vae), "image"),
    )


def as_torch(inputs: Tensors) -> dict[str, torch.Tensor]:
    """Arrays as tensors."""
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
