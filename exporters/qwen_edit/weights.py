"""A Qwen-Image-Edit checkpoint in the diffusers folder layout.

Layout: https://huggingface.co/Qwen/Qwen-Image-Edit-2509. What needs no weights is checked from the JSON files before
torch is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.pipelines.qwen_edit import networks
from darkroom.pipelines.qwen_edit.checkpoint import LATENT_CHANNELS, PATCH_SIZE, VAE_SCALE_FACTOR
from darkroom.pipelines.qwen_edit.networks import TOKEN_CHANNELS
from exporters.checkpoints import components
from exporters.checkpoints.components import (
    DIFFUSERS_STEMS,
    INDEX,
    TRANSFORMERS_STEMS,
    Component,
    expect,
    read_component,
    require,
)
from exporters.checkpoints.files import read_json
from exporters.errors import ExportError

TEXT_ENCODER = "text_encoder"
VAE = "vae"
TRANSFORMER = "transformer"
KINDS = {
    TEXT_ENCODER: "Qwen2_5_VLForConditionalGeneration",
    VAE: "AutoencoderKLQwenImage",
    TRANSFORMER: "QwenImageTransformer2DModel",
}
"""The class of each part."""
CONTROLNET = networks.CONTROLNET_FOLDER
"""The role of a ControlNet in an export."""
CONTROLNET_KIND = "QwenImageControlNetModel"
CONTROLNET_PATTERNS = ("config.json", "diffusion_pytorch_model*")
"""The files of a ControlNet that an export reads."""
_SAME = {"in_channels": 64, "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 3584}
"""Settings that a ControlNet shares with its transformer, and their defaults."""
PIPELINES = {"QwenImageEditPipeline": False, "QwenImageEditPlusPipeline": True}
"""The classes of diffusers' pipelines, and whether they read several images."""
TOKENIZER = "tokenizer"
PROCESSOR = "processor/preprocessor_config.json"
_OTHER_KINDS = ("guidance_embeds", "use_additional_t_cond", "use_layer3d_rope")
"""Settings of the transformer that only other models have."""


@dataclass(frozen=True, kw_only=True)
class QwenEditCheckpoint:
    """A checked checkpoint.

    :param parts: by the names of KINDS.
    :param plus: whether it reads several images.
    """

    root: Path
    parts: Mapping[str, Component]
    plus: bool

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer."""
        return self.root / TOKENIZER


def read_checkpoint(root: Path) -> QwenEditCheckpoint:
    """Check the folder without reading its weights.

    :raises ExportError: one sentence on the first thing that is missing or of another kind.
    """
    found = read_json(root, INDEX).get("_class_name")
    if found not in PIPELINES:
        raise ExportError(
            f"{root.name} is no Qwen-Image-Edit checkpoint: {INDEX} says {found or 'no class'}; expected "
            f"{' or '.join(PIPELINES)}."
        )
    parts = {
        part: read_component(root, part, kind, TRANSFORMERS_STEMS if part == TEXT_ENCODER else DIFFUSERS_STEMS)
        for part, kind in KINDS.items()
    }
    _check(parts)
    return QwenEditCheckpoint(root=root, parts=parts, plus=PIPELINES[found])


def read_controlnet(root: Path, transformer: Component) -> Component:
    """Check a ControlNet's folder and that it suits the transformer, without reading its weights.

    :raises ExportError: one sentence on the first thing that is missing or of another kind.
    """
    controlnet = read_component(root, "", CONTROLNET_KIND, DIFFUSERS_STEMS)
    expect(controlnet, "extra_condition_channels", 0, default=0, why="as nothing is known of a mask")
    for name, usual in _SAME.items():
        wanted = transformer.config.get(name, usual)
        expect(controlnet, name, wanted, default=usual, why=f"as the transformer of {transformer.root.name}")
    return controlnet


def text_width(config: Mapping[str, Any]) -> int | None:
    """The width of a text encoder, from its config.json, which older files have without a part for text."""
    text = config.get("text_config", config)
    width: int | None = text.get("hidden_size")
    return width


def _check(parts: Mapping[str, Component]) -> None:
    vae, transformer = parts[VAE], parts[TRANSFORMER]
    expect(vae, "z_dim", LATENT_CHANNELS, default=LATENT_CHANNELS)
    halved = len(vae.config.get("temperal_downsample", (False, True, True)))
    require(vae, "pixels per latent", VAE_SCALE_FACTOR, 2**halved)
    expect(transformer, "in_channels", TOKEN_CHANNELS, default=TOKEN_CHANNELS)
    expect(transformer, "out_channels", LATENT_CHANNELS, default=LATENT_CHANNELS)
    expect(transformer, "patch_size", PATCH_SIZE, default=PATCH_SIZE)
    width = text_width(parts[TEXT_ENCODER].config)
    expect(transformer, "joint_attention_dim", width, default=3584, why="the width of the text encoder")
    for name in _OTHER_KINDS:
        expect(transformer, name, False, default=False)


def load_vae(part: str, component: Component) -> Any:
    """The VAE in fp32.

    :raises ExportError: its weights are damaged or of another network.
    """
    return components.load(KINDS[part], component, diffusers=True)
