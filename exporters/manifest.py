"""export.json: the sources of an exported model, from which a second run sees at once that it is up to date."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from darkroom.files import sha256_file, write_atomically
from exporters.files import move_into_place, sha256

Precision = Literal["fp32", "fp16"]
FILE_NAME = "export.json"


@dataclass(frozen=True, kw_only=True)
class FileState:
    """A recorded state of a file: with the same size and time it counts as unchanged, otherwise its hash decides.

    :param mtime_ns: time of the last change in nanoseconds.
    """

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Return the present state of a file.

        :raises OSError: it cannot be read.
        """
        status = path.stat()
        return cls(size=status.st_size, mtime_ns=status.st_mtime_ns, sha256=sha256_file(path))

    def still(self, path: Path) -> bool:
        """Whether `path` has this content; gigabytes of an untouched file are not read again."""
        try:
            status = path.stat()
            if status.st_size != self.size:
                return False
            return status.st_mtime_ns == self.mtime_ns or sha256_file(path) == self.sha256
        except OSError:
            return False


@dataclass(frozen=True, kw_only=True)
class SourceCheckpoint:
    """A checkpoint that an export was made from.

    :param name: the hub id, or the folder's absolute path.
    :param files: the files that were read, by their path inside the checkpoint.
    """

    name: str
    files: Mapping[str, FileState]

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> SourceCheckpoint:
        """What `asdict` made of one.

        :raises KeyError, TypeError, AttributeError: not such a thing.
        """
        return cls(name=raw["name"], files=_states(raw["files"]))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One export.

    :param exporter: hash of the source that shapes the graph; another one means that the export is outdated.
    :param source: where the weights came from: "official" or "file" (the user's own; never replaced unasked), or the
        name of a checkpoint.
    :param weights_sha256: of the weights; of several files, the hash of their hashes.
    :param files: what the export wrote beside this manifest.
    :param max_error: largest difference to torch at the export: in levels of 255 where images come out, else as a
        share of the largest value.
    :param error_share: share of values that differ at all, 0..1.
    :param sources: the checkpoints by their part in the export ("checkpoint", "controlnet").
    """

    exporter: str
    precision: Precision
    source: str
    weights_sha256: str
    files: Mapping[str, FileState]
    opset: int
    max_error: float
    error_share: float
    torch: str
    sources: Mapping[str, SourceCheckpoint] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The content of export.json."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


def _states(raw: Mapping[str, Any]) -> dict[str, FileState]:
    return {name: FileState(**state) for name, state in raw.items()}


def exporter_hash(sources: Iterable[Path], *data: str) -> str:
    """The hash of source files and of the data that they are called with."""
    parts = [path.read_bytes() for path in sources] + [text.encode() for text in data]
    return sha256(b"\0".join(parts))[:16]


def code_hash(modules: Iterable[str], *data: str) -> str:
    """The hash of the source code of modules, which are not imported for it, and of the data they are called with.

    :param modules: by their full names, as "exporters.plan".
    :raises ModuleNotFoundError: there is no such module.
    """
    return exporter_hash((_source_of(module) for module in modules), *data)


def _source_of(module: str) -> Path:
    found = find_spec(module)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"no module {module!r}")
    return Path(found.origin)


def read(folder: Path) -> Manifest | None:
    """Read the manifest of a version folder; None if there is none, or if it does not belong to the files beside it."""
    try:
        raw = json.loads((folder / FILE_NAME).read_text())
        raw["files"] = _states(raw["files"])
        raw["sources"] = {role: SourceCheckpoint.from_json(source) for role, source in raw["sources"].items()}
        manifest = Manifest(**{entry.name: raw[entry.name] for entry in fields(Manifest)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if all(state.still(folder / name) for name, state in manifest.files.items()) else None


def install(folder: Path, contents: Mapping[str, bytes | Path], **facts: Any) -> Manifest:
    """Put files and their manifest in place, each atomically; after an interruption the export is repeated.

    :param contents: bytes to write, or a finished file of the same file system to move.
    :param facts: the manifest's fields but `files`.
    """
    (folder / FILE_NAME).unlink(missing_ok=True)
    for name, content in contents.items():
        if isinstance(content, Path):
            move_into_place(content, folder / name)
        else:
            write_atomically(folder / name, content)
    manifest = Manifest(files={name: FileState.of(folder / name) for name in contents}, **facts)
    write_atomically(folder / FILE_NAME, manifest.to_json())
    return manifest
