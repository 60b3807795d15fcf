"""A kind of single file as data: which networks it holds under which names, and what it needs beside its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from exporters import onnx_export
from exporters.checkpoints.contents import looks_like
from exporters.checkpoints.single_file import shapes
from exporters.checkpoints.single_file.header import Header, Shapes
from exporters.errors import ExportError

Config = dict[str, Any]
State = dict[str, Any]
"""Weights by their names."""
_BARE_TEXT = ("embeddings.", "encoder.", "final_layer_norm.")
"""How names of a text encoder begin in files that leave "text_model." out."""
_INSTRUCTED_CHANNELS = 8
"""The channels that a UNet of the InstructPix2Pix kind reads."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A network in a file.

    :param name: its folder in the diffusers layout.
    :param title: what people call it.
    :param prefix: of its names in the file.
    :param weights: the file of its weights in the diffusers layout.
    :param derive: what the shapes of its weights, by their names without `prefix`, say of its config.json.
    :param translate: its weights by the names of the diffusers layout, of those in the file and of its config.json.
    :param width: the entry of config.json that heads and groups depend on, which are not in a file.
    """

    name: str
    title: str
    prefix: str
    weights: str
    derive: Callable[[Shapes], Config]
    translate: Callable[[State, Config], State]
    width: str


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file.

    :param title: for errors, "checkpoint of the Stable Diffusion 1.5 kind".
    :param looks: what `looks_like` says of its files.
    :param mark: begins the names of a text encoder that only files of this kind have.
    :param configs: a JSON file with the usual content of the JSON files of the diffusers layout, by their paths.
    :param classes: those that the model_index.json of a folder in the diffusers layout may name.
    :param demo: a folder whose configuration goes with files that are as wide.
    :param tokenizers: by their folders, which part reads the tokens, and with which token they are padded.
    """

    title: str
    looks: str
    mark: str
    parts: tuple[Part, ...]
    configs: Path
    classes: tuple[str, ...]
    demo: Path
    tokenizers: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def recognises(self, names: frozenset[str]) -> bool:
        """Whether weights of these names are of this kind, whole or not."""
        wanted = (self.mark, UNET.prefix)
        return all(any(name.startswith(start) for name in names) for start in wanted)

    def check(self, header: Header) -> None:
        """Check a file of which only the header is known.

        :raises ExportError: it is of another kind, has not all parts, or is one that cannot be served.
        """
        missing = [part.title for part in self.parts if not header.has(part.prefix)]
        if missing or not header.has(self.mark):
            other = self.looks if header.has(self.mark) else looks_like(header.names)
            what = f"it has no {' and no '.join(missing) or 'usual names'}"
            if other not in (None, self.looks):
                what = f"it looks like {other}"
            raise ExportError(f"{header.file.name} is no {self.title}: {what}.")
        read = header.shapes.get(f"{UNET.prefix}input_blocks.0.0.weight", (0, 4))[1]
        if read == _INSTRUCTED_CHANNELS:
            raise ExportError(
                f"{header.file.name} is a checkpoint of the InstructPix2Pix kind, which cannot be exported: its UNet "
                f"reads {read} channels, expected 4, or 9 for inpainting."
            )
        if "edm_mean" in header.shapes:
            raise ExportError(
                f"{header.file.name} is a checkpoint of the Playground 2.5 kind, which cannot be exported: its latents "
                "are scaled in another way (edm_mean)."
            )


def _translation() -> Any:
    with onnx_export.quiet():
        from diffusers.loaders import single_file_utils

    return single_file_utils


def _unet(state: State, config: Config) -> State:
    return dict(_translation().convert_ldm_unet_checkpoint(state, config))


def _vae(state: State, config: Config) -> State:
    return dict(_translation().convert_ldm_vae_checkpoint(state, config))


def clip_part(name: str, title: str, prefix: str) -> Part:
    """Return a text encoder that is a CLIPTextModel in the file, too."""

    def translate(state: State, config: Config) -> State:
        found = {name.removeprefix(prefix): value for name, value in state.items()}
        # Position ids are numbers of positions, not weights.
        return {
            f"text_model.{name}" if name.startswith(_BARE_TEXT) else name: value
            for name, value in found.items()
            if not name.endswith("position_ids")
        }

    return _text_part(name, title, prefix, shapes.clip_config, translate)


def open_clip_part(name: str, title: str, prefix: str) -> Part:
    """Return a text encoder of OpenCLIP, which the diffusers layout has as a CLIPTextModelWithProjection."""

    def translate(state: State, config: Config) -> State:
        model = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
        return dict(_translation().convert_open_clip_checkpoint(model, state, prefix=prefix))

    return _text_part(name, title, prefix, shapes.open_clip_config, translate)


def _text_part(name: str, title: str, prefix: str, derive: Any, translate: Any) -> Part:
    return Part(
        name=name,
        title=title,
        prefix=prefix,
        weights="model.safetensors",
        derive=derive,
        translate=translate,
        width="hidden_size",
    )


UNET = Part(
    name="unet",
    title="UNet",
    prefix="model.diffusion_model.",
    weights="diffusion_pytorch_model.safetensors",
    derive=shapes.unet_config,
    translate=_unet,
    width="block_out_channels",
)
VAE = Part(
    name="vae",
    title="VAE",
    prefix="first_stage_model.",
    weights="diffusion_pytorch_model.safetensors",
    derive=shapes.vae_config,
    translate=_vae,
    width="block_out_channels",
)
