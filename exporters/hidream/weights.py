"""A HiDream-I1 checkpoint in the diffusers folder layout, with Llama inside or in a folder of its own.

Layout: https://huggingface.co/HiDream-ai/HiDream-I1-Full, which names no files of text_encoder_4 and tokenizer_4:
those are meta-llama/Llama-3.1-8B-Instruct's. What needs no weights is checked from the JSON files before torch is
imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.pipelines.hidream.networks import LATENT_CHANNELS, PATCH_SIZE, VAE_SCALE_FACTOR
from exporters.checkpoints import components
from exporters.checkpoints.components import (
    DIFFUSERS_STEMS,
    INDEX,
    TRANSFORMERS_STEMS,
    Component,
    class_of,
    expect,
    read_component,
    require,
)
from exporters.checkpoints.files import read_json
from exporters.errors import ExportError

CLIPS = ("text_encoder", "text_encoder_2")
T5 = "text_encoder_3"
LLAMA = "text_encoder_4"
VAE = "vae"
TRANSFORMER = "transformer"
KINDS = {
    **dict.fromkeys(CLIPS, "CLIPTextModelWithProjection"),
    T5: "T5EncoderModel",
    LLAMA: "LlamaForCausalLM",
    VAE: "AutoencoderKL",
    TRANSFORMER: "HiDreamImageTransformer2DModel",
}
"""The class of each part."""
TOKENIZERS = {
    "clip_l": ("tokenizer", "CLIPTokenizer"),
    "clip_g": ("tokenizer_2", "CLIPTokenizer"),
    "t5": ("tokenizer_3", "T5Tokenizer"),
    "llama": ("tokenizer_4", "PreTrainedTokenizerFast"),
}
"""Folder and class of each encoder's tokenizer."""
_IN_DIFFUSERS = (VAE, TRANSFORMER)
_WIDTHS = {T5: ("d_model", 512), LLAMA: ("hidden_size", 4096)}


@dataclass(frozen=True, kw_only=True)
class HidreamCheckpoint:
    """A checked checkpoint.

    :param parts: by the names of KINDS.
    :param llama_root: the folder of Llama's checkpoint, or None where it lies in the checkpoint itself.
    """

    root: Path
    parts: Mapping[str, Component]
    llama_root: Path | None

    def tokenizer(self, encoder: str) -> Path:
        """The folder of a tokenizer."""
        if encoder == "llama" and self.llama_root is not None:
            return self.llama_root
        return self.root / TOKENIZERS[encoder][0]


def read_checkpoint(root: Path, llama_root: Path | None) -> HidreamCheckpoint:
    """Check the folders without reading their weights.

    :raises ExportError: one sentence on the first thing that is missing or of another kind.
    """
    index = read_json(root, INDEX)
    found = class_of(index, TRANSFORMER)
    if found != KINDS[TRANSFORMER]:
        raise ExportError(
            f"{root.name} is no HiDream-I1 checkpoint: {INDEX} says {index.get('_class_name', 'no class')} "
            f"with transformer {found or 'missing'}; expected {KINDS[TRANSFORMER]}."
        )
    if llama_root is None and not (root / LLAMA / "config.json").is_file():
        raise ExportError(
            f"{root.name} has no {LLAMA}: name the Llama that it was trained with, "
            "--llama meta-llama/Llama-3.1-8B-Instruct or a folder."
        )
    parts = {}
    for part, kind in KINDS.items():
        alone = part == LLAMA and llama_root is not None
        stems = DIFFUSERS_STEMS if part in _IN_DIFFUSERS else TRANSFORMERS_STEMS
        parts[part] = read_component(llama_root or root if alone else root, "" if alone else part, kind, stems)
    _check(parts)
    return HidreamCheckpoint(root=root, parts=parts, llama_root=llama_root)


def _check(parts: Mapping[str, Component]) -> None:
    vae, transformer = parts[VAE], parts[TRANSFORMER]
    expect(vae, "latent_channels", LATENT_CHANNELS, default=4)
    factor = 2 ** (len(vae.config.get("block_out_channels", (64,))) - 1)
    require(vae, "pixels per latent", VAE_SCALE_FACTOR, factor)
    expect(transformer, "in_channels", LATENT_CHANNELS, default=64)
    expect(transformer, "patch_size", PATCH_SIZE)
    pooled = sum(int(parts[clip].config.get("projection_dim", 512)) for clip in CLIPS)
    expect(transformer, "text_emb_dim", pooled, default=2048)
    wide = [int(parts[part].config.get(name, usual)) for part, (name, usual) in _WIDTHS.items()]
    expect(transformer, "caption_channels", wide)
    layers = int(parts[LLAMA].config.get("num_hidden_layers", 32))
    used = transformer.config.get("llama_layers") or ()
    if not used or max(used) >= layers:
        raise ExportError(f"The transformer reads Llama's layers {list(used)}, and Llama has {layers}.")


def load(part: str, component: Component) -> Any:
    """A network in fp32, of the class that KINDS names.

    :raises ExportError: its weights are damaged or of another network.
    """
    return components.load(KINDS[part], component, diffusers=part in _IN_DIFFUSERS)
