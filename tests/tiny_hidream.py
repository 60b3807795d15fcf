"""A checkpoint of HiDream-I1's classes with random weights, small enough for a CPU: transformer 0.3 M parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedTokenizerFast, T5Tokenizer

from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.checkpoint import HidreamCheckpointInfo
from darkroom.pipelines.hidream.pipeline import Components
from darkroom.pipelines.hidream.prompts import load_prompt_tokenizers
from darkroom.pipelines.hidream.settings import Settings
from darkroom.pipelines.hidream.transformer import load_transformer, predict
from darkroom.serving.networks import Array, Tensors
from exporters.checkpoints.origin import Origin
from exporters.export import ModelExport
from exporters.graphs.clip import ServedPooledEncoder
from exporters.graphs.vae import ServedVaeDecoder
from exporters.hidream import graphs
from exporters.hidream import pipeline as pipeline_export
from exporters.hidream.export import CheckpointSources
from exporters.onnx_export import quiet
from tests import sd15_checkpoints
from tests.tiny_sd15 import network
from training import networks as factories
from training.tokens import WORDS, byte_characters, write_tokenizer

CLIP_WIDTHS = (16, 24)
"""Of the pooled embeddings of CLIP-L and CLIP-G."""
WIDTH = 32
"""Of T5, Llama and the transformer."""
LLAMA_LAYERS = 3
MAX_RESOLUTION = 16
"""Latents of a side: pictures that are not square may have 16 x 16 latents, of four of which a token is made."""


def make_transformer(**changes: Any) -> HiDreamImageTransformer2DModel:
    """One block of each kind, four experts of which two see a token; four heads, so that it can be cut in four."""
    settings: dict[str, Any] = {
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": WIDTH // 4,
        "num_attention_heads": 4,
        "caption_channels": [WIDTH, WIDTH],
        "text_emb_dim": sum(CLIP_WIDTHS),
        "num_routed_experts": 4,
        "num_activated_experts": 2,
        "axes_dims_rope": (4, 2, 2),
        "max_resolution": (MAX_RESOLUTION, MAX_RESOLUTION),
        "llama_layers": [0, LLAMA_LAYERS - 1],
    }
    return HiDreamImageTransformer2DModel(**{**settings, **changes})


def make_vae() -> AutoencoderKL:
    """16 channels and a shift, as FLUX's, which HiDream uses."""
    return sd15_checkpoints.make_vae(
        channels=16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
    )


def make_clip(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    """248 positions, as the CLIPs of HiDream have."""
    settings: dict[str, Any] = {"width": WIDTH, "inner": 2 * WIDTH, "layers": 2, "heads": 2, "positions": 248}
    return CLIPTextModelWithProjection(factories.clip_config(tokenizer, projection=width, **settings))


def make_t5_tokenizer() -> T5Tokenizer:
    """A token per word of the demo world; letters for the others."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary = [*special, ("▁", -2.0), *((f"▁{word}", -3.0) for word in WORDS), *((c, -9.0) for c in letters)]
    return T5Tokenizer(vocab=list(dict(vocabulary).items()), extra_ids=0, model_max_length=512)


def make_llama_tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte, which is byte-level BPE before its first merge, behind a begin of text, as Llama 3's."""
    bos, eos = "<|begin_of_text|>", "<|eot_id|>"
    vocabulary = {token: index for index, token in enumerate([*byte_characters(), bos, eos])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, pad_token=eos, model_max_length=512
    )


def make_pipeline(folder: Path, *, seed: int = 0) -> HiDreamImagePipeline:
    """diffusers' pipeline of tiny components; the weights are the same every time.

    :param folder: for the files of CLIP's tokenizer.
    """
    torch.manual_seed(seed)
    write_tokenizer(folder / "words")
    with quiet():
        words = CLIPTokenizer.from_pretrained(folder / "words")
        t5_words, llama_words = make_t5_tokenizer(), make_llama_tokenizer()
        pipeline = HiDreamImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=make_vae(),
            text_encoder=make_clip(words, CLIP_WIDTHS[0]),
            tokenizer=words,
            text_encoder_2=make_clip(words, CLIP_WIDTHS[1]),
            tokenizer_2=words,
            text_encoder_3=factories.make_t5(t5_words, width=WIDTH, head=8),
            tokenizer_3=t5_words,
            text_encoder_4=factories.make_llama(llama_words, width=WIDTH, layers=LLAMA_LAYERS, tied=False),
            tokenizer_4=llama_words,
            transformer=make_transformer(),
        )
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_checkpoint(folder: Path, *, seed: int = 0) -> HiDreamImagePipeline:
    """The same, and `folder` in the diffusers layout, with Llama inside."""
    pipeline = make_pipeline(folder / "made", seed=seed)
    with quiet():
        pipeline.save_pretrained(folder)
    return pipeline


def exported(folder: Path, repository: Path, *, variant: str | None = None) -> HidreamCheckpointInfo:
    """What the exporter writes for the loop about a checkpoint in `folder`: pipeline.json and the tokenizers."""
    sources = CheckpointSources(checkpoint=Origin.of(str(folder), folder.parent, lambda name: Path(name)))
    wanted = ModelExport(spec=networks.PIPELINE, repository=repository, checkpoint=sources.checkpoint)
    pipeline_export.export(wanted, sources, variant, lambda stage: None)
    return HidreamCheckpointInfo.read(repository / networks.PIPELINE.name / "1")


def make_components(pipeline: HiDreamImagePipeline, folder: Path, repository: Path) -> Components:
    """What our loop runs on: the pipeline's own encoders and VAE, called as served ones are, and its transformer, read
    again from the checkpoint.

    :param folder: the checkpoint of the pipeline.
    :param repository: for what `exported` writes.
    """
    checkpoint = exported(folder, repository)
    transformer = load_transformer(folder / "transformer", device=torch.device("cpu"), dtype=torch.float32)

    async def predicted(inputs: Tensors) -> dict[str, Array]:
        given = {name: torch.from_numpy(value) for name, value in inputs.items()}
        return {"noise_pred": predict(transformer, {**given, "timesteps": given["timesteps"][:, 0]}).numpy()}

    return Components(
        checkpoint=checkpoint,
        limits=Settings(),
        readers=load_prompt_tokenizers(repository / networks.PIPELINE.name / "1", checkpoint),
        encoders={
            "clip_l": network(ServedPooledEncoder(pipeline.text_encoder), "text_embeds"),
            "clip_g": network(ServedPooledEncoder(pipeline.text_encoder_2), "text_embeds"),
            "t5": network(graphs.ServedT5(pipeline.text_encoder_3), "prompt_embeds"),
            "llama": network(graphs.ServedLlama(pipeline.text_encoder_4), "hidden_states"),
        },
        transformer=predicted,
        vae_decoder=network(ServedVaeDecoder(pipeline.vae), "image"),
    )
