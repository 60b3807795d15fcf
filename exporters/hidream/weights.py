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
from exporters import onnx_export
from exporters.errors import ExportError
from exporters.sd15 import weights
from exporters.sd15.weights import DIFFUSERS_STEMS, TRANSFORMERS_STEMS, Component, read_component

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
class Checkpoint:
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


def read_checkpoint(root: Path, llama_root: Path | None) -> Checkpoint:
    """Check the folders without reading their weights.

    :raises ExportError: one sentence on the first thing that is missing or of another kind.
    """
    index = weights.read_json(root, "model_index.json")
    entry = index.get(TRANSFORMER)
    found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if found != KINDS[TRANSFORMER]:
        raise ExportError(
            f"{root.name} is no HiDream-I1 checkpoint: model_index.json says {index.get('_class_name', 'no class')} "
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
    return Checkpoint(root=root, parts=parts, llama_root=llama_root)


def _check(parts: Mapping[str, Component]) -> None:
    vae, transformer = parts[VAE].config, parts[TRANSFORMER].config
    _expect(parts[VAE], "latent_channels", LATENT_CHANNELS, vae.get("latent_channels", 4))
    factor = 2 ** (len(vae.get("block_out_channels", (64,))) - 1)
    _expect(parts[VAE], "pixels per latent", VAE_SCALE_FACTOR, factor)
    _expect(parts[TRANSFORMER], "in_channels", LATENT_CHANNELS, transformer.get("in_channels", 64))
    _expect(parts[TRANSFORMER], "patch_size", PATCH_SIZE, transformer.get("patch_size"))
    pooled = sum(int(parts[clip].config.get("projection_dim", 512)) for clip in CLIPS)
    _expect(parts[TRANSFORMER], "text_emb_dim", pooled, transformer.get("text_emb_dim", 2048))
    wide = [int(parts[part].config.get(name, usual)) for part, (name, usual) in _WIDTHS.items()]
    _expect(parts[TRANSFORMER], "caption_channels", wide, transformer.get("caption_channels"))
    layers = int(parts[LLAMA].config.get("num_hidden_layers", 32))
    used = transformer.get("llama_layers") or ()
    if not used or max(used) >= layers:
        raise ExportError(f"The transformer reads Llama's layers {list(used)}, and Llama has {layers}.")


def _expect(component: Component, name: str, value: object, found: object) -> None:
    if found != value:
        where = f"{component.root.name}/{component.part}".rstrip("/")
        raise ExportError(f"{where}: {name} is {found}, expected {value}.")


def load(part: str, component: Component) -> Any:
    """A network in fp32, of the class that KINDS names.

    :raises ExportError: its weights are damaged or of another network.
    """
    with onnx_export.quiet():
        import diffusers
        import transformers
    if part in _IN_DIFFUSERS:
        # Without accelerate, which only training needs, diffusers has no other way and says so on every call.
        return weights.load_component(getattr(diffusers, KINDS[part]), component, low_cpu_mem_usage=False)
    return weights.load_component(getattr(transformers, KINDS[part]), component)
