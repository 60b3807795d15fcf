"""A checkpoint in one .safetensors file, as web UIs use them: unpacked into the diffusers folder layout.

The file holds weights under the names of CompVis' original code, and no configuration: that and the tokenizer come from
a folder or a repository that has them, by default the one of Stable Diffusion 1.5 itself. The names are translated by
diffusers (loaders/single_file_utils.py).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from exporters import onnx_export
from exporters.checkpoints.contents import looks_like, tensor_names
from exporters.checkpoints.files import read_json
from exporters.errors import ExportError
from exporters.files import sha256

CONFIG = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""Checkpoint whose configuration and tokenizer are used for a file, unless the caller names another."""
PATTERNS = ("model_index.json", "*/config.json", "tokenizer/*", "scheduler/*", "generation_config.json")
"""What of a repository is needed for that: no weights."""
_UNET, _VAE, _TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
_WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
_NOTE = "unpacked.json"
_KEPT = ("tokenizer", "scheduler")
_BARE_TEXT = ("embeddings.", "encoder.", "final_layer_norm.")
"""How names of the text encoder begin in files that leave "text_model." out."""


def unpack(file: Path, config: Callable[[], Path], cache: Path, *, named: str | None = None) -> Path:
    """The folder of a file; it is made once and kept in `cache` for as long as the file stays as it is.

    :param config: a folder with the configuration; it is asked only where the file does not lie in one.
    :param named: what a user called that folder; None = any that the file was unpacked with before.
    :raises ExportError: the file is damaged, or no checkpoint of this kind.
    """
    check(file)
    beside = file.parent if (file.parent / "model_index.json").is_file() else None
    wanted = str(beside) if beside else named
    status = file.stat()
    state = f"{file.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    folder = cache / "single-files" / f"{file.stem}-{sha256(state.encode())[:16]}"
    if folder.is_dir() and wanted in (None, read_json(folder, _NOTE)["config"]):
        return folder
    source = beside or config()
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpacking-"))
    try:
        _write(file, source, made)
        (made / _NOTE).write_text(json.dumps({"config": wanted or CONFIG}))
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def is_whole(names: frozenset[str]) -> bool:
    """Whether weights of these names are a UNet, a VAE and a text encoder of this kind."""
    wanted = (f"{_UNET}input_blocks.0.0.weight", f"{_VAE}decoder.conv_in.weight")
    return all(name in names for name in wanted) and any(name.startswith(_TEXT) for name in names)


def check(file: Path) -> None:
    """Look at the names of the weights, and not at the weights.

    :raises ExportError: damaged, or no checkpoint of this kind.
    """
    names = tensor_names(file)
    if is_whole(names):
        return
    kind = looks_like(names)
    missing = [part for part, start in (("UNet", _UNET), ("VAE", _VAE), ("text encoder", _TEXT))
               if not any(name.startswith(start) for name in names)]  # fmt: skip
    what = f"it looks like {kind}" if kind else f"it has no {' and no '.join(missing) or 'usual names'}"
    raise ExportError(f"{file.name} is no checkpoint of the Stable Diffusion 1.5 kind: {what}.")


def fits(file: Path, config: Path) -> bool:
    """Whether the networks of a file are as wide as a configuration says, and read the same number of tokens."""
    from safetensors import safe_open

    unet, vae, text = (read_json(config, f"{part}/config.json") for part in _WEIGHTS)
    wanted = {
        f"{_UNET}input_blocks.0.0.weight": unet.get("block_out_channels", [None])[0],
        f"{_UNET}middle_block.0.in_layers.0.weight": unet.get("block_out_channels", [None])[-1],
        f"{_VAE}decoder.conv_in.weight": vae.get("block_out_channels", [None])[-1],
        f"{_TEXT}text_model.embeddings.token_embedding.weight": text.get("vocab_size"),
        f"{_TEXT}text_model.final_layer_norm.weight": text.get("hidden_size"),
    }
    with safe_open(file, "pt") as content:
        names = frozenset(content.keys())
        return all(name in names and content.get_slice(name).get_shape()[0] == first for name, first in wanted.items())


def _write(file: Path, config: Path, folder: Path) -> None:
    """Fill the folder: weights of the file, everything else of the configuration."""
    from safetensors.torch import load_file, save_file

    with onnx_export.quiet():
        from diffusers.loaders import single_file_utils as translate

    configs = {part: read_json(config, f"{part}/config.json") for part in _WEIGHTS}
    state: dict[str, Any] = load_file(file)
    try:
        with onnx_export.quiet():
            parts = {
                "unet": translate.convert_ldm_unet_checkpoint(_of(state, _UNET), configs["unet"]),
                "vae": translate.convert_ldm_vae_checkpoint(_of(state, _VAE), configs["vae"]),
                "text_encoder": _text_encoder(state),
            }
    except (KeyError, IndexError, AttributeError, RuntimeError, ValueError) as error:
        raise ExportError(f"{file.name} does not fit the configuration of {config.name}: {error!s:.200}.") from None
    for part, weights in parts.items():
        (folder / part).mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in weights.items()}, folder / _WEIGHTS[part])
    _copy(config, folder, ("model_index.json", *(f"{part}/config.json" for part in _WEIGHTS)))
    _copy(config, folder, (str(path.relative_to(config)) for kept in _KEPT for path in (config / kept).glob("*")))
    _copy(config, folder, ("generation_config.json",) if (config / "generation_config.json").is_file() else ())


def _of(state: Mapping[str, Any], start: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name.startswith(start)}


def _text_encoder(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights by the names of transformers. Position ids are left out: they are not weights."""
    found = {name.removeprefix(_TEXT): value for name, value in _of(state, _TEXT).items()}
    return {
        f"text_model.{name}" if name.startswith(_BARE_TEXT) else name: value
        for name, value in found.items()
        if not name.endswith("position_ids")
    }


def _copy(config: Path, folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(config / name, folder / name)
        except FileNotFoundError:
            raise ExportError(f"The configuration {config.name} has no {name}.") from None
