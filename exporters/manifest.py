"""export.json: what an exported model was made of, so that a second run can tell at once that it is up to date."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from exporters.files import sha256, write_atomically

Precision = Literal["fp32", "fp16"]
FILE_NAME = "export.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One export.

    :param exporter: hash of the source that shapes the graph; another one means that the export is outdated.
    :param source: where the weights came from: "official" or "file" (the user's own; never replaced unasked).
    :param weights_sha256: of the weights file.
    :param model_sha256: of model.onnx.
    :param max_error: largest difference to torch at the export, in levels of 255.
    :param error_share: share of values that differ at all, 0..1.
    """

    exporter: str
    precision: Precision
    source: Literal["official", "file"]
    weights_sha256: str
    model_sha256: str
    opset: int
    max_error: float
    error_share: float
    torch: str


def exporter_hash(sources: Iterable[Path], *data: str) -> str:
    """The hash of source files and of the data that they are called with."""
    parts = [path.read_bytes() for path in sources] + [text.encode() for text in data]
    return sha256(b"\0".join(parts))[:16]


def read(folder: Path) -> Manifest | None:
    """The manifest of a version folder, or None when there is none that belongs to the model.onnx beside it."""
    try:
        raw = json.loads((folder / FILE_NAME).read_text())
        manifest = Manifest(**{field.name: raw[field.name] for field in fields(Manifest)})
        return manifest if sha256((folder / "model.onnx").read_bytes()) == manifest.model_sha256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def install(folder: Path, model: bytes, manifest: Manifest) -> None:
    """Put model.onnx and its manifest in place, each atomically; a stop in between only means another export."""
    write_atomically(folder / "model.onnx", model)
    write_atomically(folder / FILE_NAME, json.dumps(asdict(manifest), indent=1).encode() + b"\n")
