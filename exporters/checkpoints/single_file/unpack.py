"""A single file, unpacked into a folder in the diffusers layout, which is kept while the file stays as it is."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from darkroom.locks import lock
from exporters import manifest, onnx_export
from exporters.checkpoints.components import INDEX
from exporters.checkpoints.origin import SINGLE, Origin
from exporters.checkpoints.origin import origin as origin_of
from exporters.checkpoints.single_file import configuration
from exporters.checkpoints.single_file.configuration import Configuration
from exporters.checkpoints.single_file.header import Header, read_header
from exporters.checkpoints.single_file.kind import Kind, Part, State
from exporters.errors import ExportError
from exporters.files import sha256

PATTERNS = (INDEX, "*/config.json", "tokenizer*/*", "scheduler/*", "generation_config.json")
"""What of a repository is needed for a configuration: no weights."""
_NOTE = "unpacked.json"
_STAGING = ".unpacking-"
_PACKAGE = "exporters.checkpoints.single_file"
_MODULES = tuple(f"{_PACKAGE}.{name}" for name in ("configuration", "kind", "shapes", "tokenizer", "unpack"))


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a user says of a file, and the file does not.

    :param config: a folder in the diffusers layout or a hub id that has the configuration; None: as the file was
        unpacked before, else the folder that it lies in, else `configuration.read` finds one.
    :param prediction: one of PREDICTIONS; None: as it was unpacked before, else as the file or the configuration says.
    """

    config: str | None = None
    prediction: str | None = None


def single_file_origin(
    text: str, base: Path, cache: Path, patterns: tuple[str, ...], kind: Kind, choices: Choices | None = None
) -> Origin:
    """A checkpoint by what a user calls it: a folder or a single file, relative to `base`, or a hub id.

    :param choices: for a single file.
    :raises ExportError: they are given for another checkpoint.
    """
    given = choices or Choices()

    def resolve(config: str) -> Origin:
        return origin_of(config, base, cache, PATTERNS)

    def unpacked(file: Path) -> Path:
        named = resolve(given.config).name if given.config else None
        return unpack(kind, file, cache, Choices(config=named, prediction=given.prediction), resolve)

    found = origin_of(text, base, cache, patterns, unpack=unpacked)
    if given != Choices() and Path(found.name).suffix not in SINGLE:
        raise ExportError(f"{text} is no single file; it has a configuration, and takes neither --config nor "
                          "--prediction-type.")  # fmt: skip
    return found


def unpack(kind: Kind, file: Path, cache: Path, choices: Choices, resolve: Callable[[str], Origin]) -> Path:
    """The folder of a file.

    :param choices: with the absolute path of a folder.
    :param resolve: finds a configuration by its name.
    :raises ExportError: the file is damaged or of another kind, its configuration is missing or does not fit, or the
        disk is full.
    """
    header = read_header(file)
    kind.check(header)
    folder = cache / "single-files" / sha256(str(file).encode())[:16] / file.stem
    noted = _note(folder)
    wanted = Choices(
        config=choices.config or noted.get("config"), prediction=choices.prediction or noted.get("prediction")
    )
    near = configuration.beside(kind, file)
    named = wanted.config or (str(near) if near else None)
    state = {**_state(kind, file, named), **asdict(wanted)}
    if noted == state:
        return folder
    source = _folder(file, resolve, named) if named else None
    found = configuration.read(kind, header, source, wanted.prediction)
    with _alone(file, folder.parent):
        if _note(folder) != state:
            _make(kind, header, found, folder, state)
    return folder


@contextmanager
def _alone(file: Path, folder: Path) -> Iterator[None]:
    """Wait for another process that unpacks the same file.

    :raises ExportError: in place of an error of the disk.
    """
    from safetensors import SafetensorError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as held:
            lock(held.fileno())
            yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ExportError(f"{file.name} could not be unpacked into {folder}: {reason}.") from None


def _folder(file: Path, resolve: Callable[[str], Origin], named: str) -> Path:
    try:
        return resolve(named).root
    except ExportError as error:
        raise ExportError(
            f"The configuration of {file.name} cannot be had: {error} Name a folder that has it with --config."
        ) from None


def _note(folder: Path) -> dict[str, Any]:
    """What was noted of a folder; empty where there is none."""
    try:
        content = json.loads((folder / _NOTE).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _state(kind: Kind, file: Path, named: str | None) -> dict[str, Any]:
    """Everything that shapes the folder of a file; what a hub has under a name is taken to stay as it is."""
    status = file.stat()
    config = Path(named or kind.demo)
    files = sorted({path for pattern in PATTERNS for path in config.glob(pattern)}) if config.is_absolute() else []
    return {
        "file": str(file.resolve()),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "code": manifest.code_hash(_MODULES, kind.title, kind.configs.read_text()),
        "configuration": sha256(b"".join(path.read_bytes() for path in files if path.is_file())),
    }


def _make(kind: Kind, header: Header, found: Configuration, folder: Path, state: dict[str, Any]) -> None:
    """Fill a folder beside, and put it into place as a whole; leftovers of a killed run go."""
    parent = folder.parent
    for left in parent.glob(f"{_STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)
    _require_space(header.file, parent)
    made = Path(tempfile.mkdtemp(dir=parent, prefix=_STAGING))
    try:
        configuration.write(kind, header.file, found, made)
        for part in kind.parts:
            _write_weights(part, header, found, made)
        (made / _NOTE).write_text(json.dumps(state, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _require_space(file: Path, folder: Path) -> None:
    """:raises ExportError: the disk has no room for a copy of the weights."""
    needed, free = file.stat().st_size, shutil.disk_usage(folder).free
    if needed > free:
        raise ExportError(
            f"{file.name} needs {decimal(needed)} to be unpacked, and the disk of {folder} has {decimal(free)} left; "
            "free some space, or name a folder on another disk with --cache."
        )


def _write_weights(part: Part, header: Header, found: Configuration, folder: Path) -> None:
    """The weights of a network, in the precision that the file has them in. One network is in memory at a time.

    :raises ExportError: a weight is not finite, or the translation does not understand the names.
    """
    from safetensors.torch import save_file

    state = _read(part, header)
    try:
        with onnx_export.quiet():
            weights = part.translate(state, found.of(part))
    except (KeyError, IndexError, AttributeError, RuntimeError, ValueError) as error:
        raise ExportError(
            f"{header.file.name}: its {part.title} does not fit the configuration of {found.title}: {error!s:.200}."
        ) from None
    target = folder / part.name / part.weights
    save_file({name: value.contiguous() for name, value in weights.items()}, target, {"format": "pt"})


def _read(part: Part, header: Header) -> State:
    """The weights of a network by their names in the file.

    :raises ExportError: a weight is not finite.
    """
    import torch
    from safetensors import safe_open

    state = {}
    with safe_open(header.file, "pt") as content:
        for name in header.shapes:
            if name.startswith(part.prefix):
                value = state[name] = content.get_tensor(name)
                if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
                    raise ExportError(f"{header.file.name}: {name} holds NaN or infinity; the file is damaged.")
    return state
