"""The configuration of a single file: the usual one of its kind or that of a folder, with what the file says itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.checkpoints.components import INDEX, SCHEDULER
from exporters.checkpoints.files import read_json
from exporters.checkpoints.latent_diffusion import GENERATION
from exporters.checkpoints.single_file import tokenizer
from exporters.checkpoints.single_file.header import Header
from exporters.checkpoints.single_file.kind import Config, Kind, Part
from exporters.errors import ExportError

PREDICTIONS = ("epsilon", "v_prediction")
"""What a UNet may predict, by diffusers' names."""
_PREDICTION_KEY = "modelspec.prediction_type"
_SPELLINGS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
"""Prediction types as programs write them."""
_V_MARK, _ZERO_SNR_MARK = "v_pred", "ztsnr"
"""Names of empty weights by which web UIs know what a UNet predicts, and that its last timestep is noise alone."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The JSON files of a checkpoint.

    :param title: for people.
    :param files: their content, by their paths in the diffusers layout.
    :param folder: where they are from; None for the usual ones of a kind.
    """

    title: str
    files: Mapping[str, Config]
    folder: Path | None = None

    def of(self, part: Part) -> Config:
        """config.json of a network."""
        return self.files[f"{part.name}/config.json"]


def usual(kind: Kind) -> Configuration:
    """Return what checkpoints of a kind have."""
    return Configuration(title="checkpoints of its kind", files=json.loads(kind.configs.read_text()))


def of_folder(kind: Kind, folder: Path) -> Configuration:
    """Return that of a folder in the diffusers layout.

    :raises ExportError: a file is missing or damaged, or its pipeline is of another kind.
    """
    names = (INDEX, SCHEDULER, *(f"{part.name}/config.json" for part in kind.parts))
    files = {name: read_json(folder, name) for name in names}
    if files[INDEX].get("_class_name") not in kind.classes:
        found = files[INDEX].get("_class_name", "no class")
        raise ExportError(f"{folder.name} is no configuration for a {kind.title}: {INDEX} says {found}.")
    return Configuration(title=folder.name, files=files, folder=folder)


def beside(kind: Kind, file: Path) -> Path | None:
    """Return the folder of a file where that is one in the diffusers layout, of the same kind."""
    folder = file.parent
    same = (folder / INDEX).is_file() and read_json(folder, INDEX).get("_class_name") in kind.classes
    return folder if same else None


def read(kind: Kind, header: Header, folder: Path | None, prediction: str | None) -> Configuration:
    """Return the configuration of a file.

    :param folder: one in the diffusers layout that has it; None: that of the demo where the file is as wide, else the
        usual one.
    :param prediction: one of PREDICTIONS; None: as the file says, else as the configuration does.
    :raises ExportError: the configuration does not fit the file.
    """
    derived = {part.name: _derive(part, header) for part in kind.parts}
    if folder is not None:
        found = of_folder(kind, folder)
    else:
        found = usual(kind)
        if kind.demo.is_dir() and _as_wide(kind, derived, demo := of_folder(kind, kind.demo)):
            found = demo
    files = dict(found.files)
    for part in kind.parts:
        _require_width(header, part, derived[part.name], found)
        files[f"{part.name}/config.json"] = {**found.of(part), **derived[part.name]}
    files[SCHEDULER] = {**files[SCHEDULER], **_scheduler(header, prediction)}
    return Configuration(title=found.title, files=files, folder=found.folder)


def _derive(part: Part, header: Header) -> Config:
    try:
        return part.derive(header.under(part.prefix))
    except KeyError as error:
        raise ExportError(f"{header.file.name}: its {part.title} has no {part.prefix}{error.args[0]}.") from None
    except (IndexError, ValueError):
        raise ExportError(f"{header.file.name}: the weights of its {part.title} have unusual shapes.") from None
    except ExportError as error:
        raise ExportError(f"{header.file.name}: {error}.") from None


def _as_wide(kind: Kind, derived: Mapping[str, Config], demo: Configuration) -> bool:
    """Whether all networks of a file have the widths of the demo's, and read as many tokens."""
    entries = ("vocab_size", "hidden_size", "block_out_channels")
    return all(
        derived[part.name].get(entry) == demo.of(part).get(entry)
        for part in kind.parts
        for entry in entries
        if entry in derived[part.name]
    )


def _require_width(header: Header, part: Part, derived: Config, found: Configuration) -> None:
    """:raises ExportError: a network is wider or narrower than the configuration says."""
    width, expected = derived[part.width], found.of(part).get(part.width)
    if width != expected:
        raise ExportError(
            f"{header.file.name}: {part.width} of its {part.title} is {width}, and {expected} for {found.title}. How "
            "many heads and groups such a network has is not in the file: name a folder in the diffusers layout that "
            "has its configuration with --config, or move the file into one."
        )


def _scheduler(header: Header, prediction: str | None) -> dict[str, Any]:
    """What a file says of its noise schedule.

    :raises ExportError: it names an unknown prediction type, and none is given.
    """
    says = header.metadata.get(_PREDICTION_KEY)
    if prediction is None and says is not None:
        if says not in _SPELLINGS:
            raise ExportError(
                f"{header.file.name}: {_PREDICTION_KEY} is {says!r}, known are {', '.join(_SPELLINGS)}. "
                "Say which it is with --prediction-type."
            )
        prediction = _SPELLINGS[says]
    if prediction is None and _V_MARK in header.shapes:
        prediction = "v_prediction"
    zero_snr = {"rescale_betas_zero_snr": True} if _ZERO_SNR_MARK in header.shapes else {}
    return {**({"prediction_type": prediction} if prediction else {}), **zero_snr}


def write(kind: Kind, file: Path, configuration: Configuration, target: Path) -> None:
    """Write everything of a checkpoint but the weights.

    :param file: for errors.
    :raises ExportError: there is no tokenizer for it.
    """
    for name, content in configuration.files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(json.dumps(content, indent=2))
    given = configuration.folder
    if given and (given / GENERATION).is_file():
        shutil.copyfile(given / GENERATION, target / GENERATION)
    for name, (part, pad) in kind.tokenizers.items():
        if given and (given / name).is_dir():
            shutil.copytree(given / name, target / name)
            continue
        size = configuration.files[f"{part}/config.json"]["vocab_size"]
        if size != tokenizer.SIZE:
            raise ExportError(
                f"{file.name}: its text encoder knows {size} tokens, CLIP's tokenizer has {tokenizer.SIZE}: name a "
                f"folder in the diffusers layout that has the right one in {name} with --config."
            )
        tokenizer.write_tokenizer(target / name, pad)
