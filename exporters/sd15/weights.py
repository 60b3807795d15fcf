"""A checkpoint in the diffusers folder layout: is it of this family, which files are read, and its networks in fp32.

Layout: https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5. What needs no weights (classes, widths,
missing files) is checked from the JSON files before torch is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from darkroom.pipelines.sd15.networks import LATENT_CHANNELS, VAE_SCALE_FACTOR
from exporters import onnx_export
from exporters.checkpoint_files import plain_view
from exporters.checkpoint_files import read_json as read_json
from exporters.errors import ExportError
from exporters.files import sha256
from exporters.manifest import Source

_INDEX = "model_index.json"
KINDS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "controlnet": "ControlNetModel",
}
"""The class of each part."""
_CHECKPOINT_PARTS = ("unet", "vae", "text_encoder")
DIFFUSERS_STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model")
TRANSFORMERS_STEMS = ("model", "pytorch_model")
"""What the files are called that hold the weights: those of .safetensors and those of .bin."""
# What would need inputs that the served graphs do not have.
_EXTRA_CONDITIONS = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type",
                     "time_cond_proj_dim")  # fmt: skip
_SHAPE = ("down_block_types", "block_out_channels", "layers_per_block", "cross_attention_dim")


@dataclass(frozen=True, kw_only=True)
class Component:
    """One network of a checkpoint.

    :param part: its folder inside the checkpoint; "" for a ControlNet, which is a checkpoint of its own.
    :param files: config.json and the weights, by their path inside the checkpoint.
    :param variant: "fp16" where the weights lie in files of that name.
    """

    root: Path
    part: str
    config: dict[str, Any]
    files: tuple[str, ...]
    variant: str | None

    @property
    def weights(self) -> tuple[str, ...]:
        """The files that are not config.json."""
        return self.files[1:]

    @property
    def safetensors(self) -> bool:
        """Whether the weights are safetensors; else they are pickles, read with torch's weights_only."""
        return any(name.endswith(".safetensors") for name in self.files)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checked folder."""

    root: Path
    unet: Component
    vae: Component
    text_encoder: Component

    def component(self, part: str) -> Component:
        """One of "unet", "vae", "text_encoder"."""
        found: Component = getattr(self, part)
        return found


def read_checkpoint(root: Path) -> Checkpoint:
    """Check a folder without reading its weights.

    :raises ExportError: one sentence on the first thing that is missing or of another kind.
    """
    index = read_json(root, _INDEX)
    for part in _CHECKPOINT_PARTS:
        kind, entry = KINDS[part], index.get(part)
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if found != kind or f"{part}_2" in index:
            raise ExportError(
                f"{root.name} is no checkpoint of the Stable Diffusion 1.5 kind: {_INDEX} says "
                f"{index.get('_class_name', 'no class')} with {part} {found or 'missing'}; expected one {kind}."
            )
    stems = {"text_encoder": TRANSFORMERS_STEMS}
    parts = {
        part: read_component(root, part, KINDS[part], stems.get(part, DIFFUSERS_STEMS)) for part in _CHECKPOINT_PARTS
    }
    checkpoint = Checkpoint(root=root, **parts)
    _check_unet(checkpoint)
    _check_vae(checkpoint.vae)
    return checkpoint


def read_controlnet(root: Path, unet: Component) -> Component:
    """Check a ControlNet's folder and that it suits the UNet.

    :raises ExportError: as `read_checkpoint`.
    """
    controlnet = read_component(root, "", KINDS["controlnet"], DIFFUSERS_STEMS)
    _expect(controlnet, "conditioning_channels", 3, default=3)
    _expect(controlnet, "global_pool_conditions", False, default=False)
    for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
        _expect(controlnet, name, None)
    if 2 ** (len(controlnet.config.get("conditioning_embedding_out_channels", (16, 32, 96, 256))) - 1) != 8:
        raise ExportError(f"{root.name}: the ControlNet does not read pictures eight times the size of the latents.")
    for name in _SHAPE:
        if controlnet.config.get(name) != unet.config.get(name):
            raise ExportError(
                f"The ControlNet {root.name} does not fit the UNet of {unet.root.name}: {name} is "
                f"{controlnet.config.get(name)}, the UNet's is {unet.config.get(name)}."
            )
    return controlnet


def _check_unet(checkpoint: Checkpoint) -> None:
    unet = checkpoint.unet
    for name in ("in_channels", "out_channels"):
        _expect(unet, name, LATENT_CHANNELS, default=LATENT_CHANNELS)
    for name in _EXTRA_CONDITIONS:
        _expect(unet, name, None)
    width = checkpoint.text_encoder.config.get("hidden_size", 512)  # transformers leaves defaults out
    _expect(unet, "cross_attention_dim", width, why="the width of the text encoder")


def _check_vae(vae: Component) -> None:
    _expect(vae, "latent_channels", LATENT_CHANNELS, default=LATENT_CHANNELS)
    for name in ("in_channels", "out_channels"):
        _expect(vae, name, 3, default=3)
    factor = 2 ** (len(vae.config.get("block_out_channels", (64,))) - 1)
    if factor != VAE_SCALE_FACTOR:
        raise ExportError(f"{vae.root.name}: the VAE makes pictures {factor} times the size of the latents, "
                          f"expected {VAE_SCALE_FACTOR} times.")  # fmt: skip


def _expect(component: Component, name: str, value: object, *, default: object = None, why: str = "") -> None:
    found = component.config.get(name, default)
    if found != value:
        where = f"{component.root.name}/{component.part}".rstrip("/")
        raise ExportError(f"{where}: {name} is {found}, expected {value}{f', {why}' if why else ''}.")


def read_component(root: Path, part: str, kind: str, stems: tuple[str, str]) -> Component:
    """One network of a checkpoint: its config.json and the names of its files.

    :param part: its folder; "" where the checkpoint is this network alone.
    :param kind: the class that config.json must name.
    :param stems: TRANSFORMERS_STEMS or DIFFUSERS_STEMS.
    :raises ExportError: it is missing, incomplete or of another class.
    """
    prefix = f"{part}/" if part else ""
    config = read_json(root, f"{prefix}config.json")
    found = config.get("_class_name") or (config.get("architectures") or [None])[0]
    if found != kind:
        raise ExportError(f"{root.name}/{prefix}config.json describes {found or 'no class'}, expected {kind}.")
    for suffix, stem in ((".safetensors", stems[0]), (".bin", stems[1])):
        for variant in (None, "fp16"):
            files = _weight_files(root, prefix, stem, f".{variant}" if variant else "", suffix)
            if files:
                files = (f"{prefix}config.json", *files)
                return Component(root=root, part=part, config=config, files=files, variant=variant)
    raise ExportError(f"{root.name} has no weights {prefix}{stems[0]}.safetensors (nor .bin).")


def _weight_files(root: Path, prefix: str, stem: str, variant: str, suffix: str) -> tuple[str, ...]:
    """One file, or the list of several with those in it; nothing when there is neither.

    :raises ExportError: a file of the list is missing.
    """
    single = f"{prefix}{stem}{variant}{suffix}"
    if (root / single).is_file():
        return (single,)
    indices = [f"{prefix}{name}" for name in _index_names(stem, variant, suffix)]
    index = next((name for name in indices if (root / name).is_file()), None)
    if index is None:
        return ()
    shards = sorted({f"{prefix}{name}" for name in read_json(root, index).get("weight_map", {}).values()})
    for shard in shards:
        if not (root / shard).is_file():
            raise ExportError(f"{root.name} has no {shard}, which {index} lists.")
    return (index, *shards)


def _index_names(stem: str, variant: str, suffix: str) -> tuple[str, ...]:
    """What the list of several files may be called; the first one is diffusers' and transformers' own."""
    return tuple(
        dict.fromkeys(
            (
                f"{stem}{suffix}.index{variant}.json",
                f"{stem}{suffix}{variant}.index.json",
                f"{stem}{variant}{suffix}.index.json",
            )
        )
    )


def _usual_names(component: Component) -> dict[str, str]:
    """The name that the libraries expect for the list of a component's files, by the one that it has."""
    index = Path(component.weights[0]).name
    if not index.endswith(".json"):
        return {}
    suffix = ".safetensors" if component.safetensors else ".bin"
    variant = f".{component.variant}" if component.variant else ""
    for stem in dict.fromkeys((*DIFFUSERS_STEMS, *TRANSFORMERS_STEMS)):
        names = _index_names(stem, variant, suffix)
        if index in names:
            return {index: names[0]}
    return {}


def digest(*sources: Source) -> str:
    """The hash of all files' hashes."""
    return sha256("".join(state.sha256 for entry in sources for _, state in sorted(entry.files.items())).encode())


def load(part: str, component: Component) -> Any:
    """A network in fp32: UNet2DConditionModel, ControlNetModel, AutoencoderKL or CLIPTextModel.

    :raises ExportError: its weights are damaged or of another network.
    """
    with onnx_export.quiet():
        import diffusers
        import transformers
    kind = KINDS[part]
    if part == "text_encoder":
        return load_component(getattr(transformers, kind), component)
    # Without accelerate, which only training needs, diffusers has no other way and says so on every call.
    return load_component(getattr(diffusers, kind), component, low_cpu_mem_usage=False)


def load_component(kind: Any, component: Component, **options: Any) -> Any:
    """from_pretrained with every way to fail as one sentence; weights stored in fp16 become fp32.

    :raises ExportError: its weights are damaged or of another network.
    """
    import torch
    from safetensors import SafetensorError

    what = f"{component.root.name}/{component.weights[0]}"
    try:
        with onnx_export.quiet(), plain_view(component.root / component.part, _usual_names(component)) as folder:
            model, loaded = kind.from_pretrained(
                folder,
                variant=component.variant,
                use_safetensors=component.safetensors,
                torch_dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except (OSError, SafetensorError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{what} cannot be read as the weights of {kind.__name__}: {reason[:200]}") from None
    for problem in _mismatches(loaded):
        raise ExportError(f"{what} holds the weights of another network: {problem}.")
    return model.float().eval().requires_grad_(False)


def _mismatches(loaded: dict[str, Any]) -> Iterator[str]:
    if loaded.get("missing_keys"):
        yield f"{len(loaded['missing_keys'])} are missing, {min(loaded['missing_keys'])} is the first"
    if loaded.get("mismatched_keys"):
        yield f"{len(loaded['mismatched_keys'])} have another shape"
    # Old files carry CLIP's position numbers among the weights; they are no weights.
    unexpected = [key for key in loaded.get("unexpected_keys", ()) if not key.endswith("position_ids")]
    if unexpected:
        yield f"{len(unexpected)} are unknown, {min(unexpected)} is the first"
