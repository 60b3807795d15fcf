"""What the header of a .safetensors file says: names and shapes of its weights, and its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporters.errors import ExportError

Shapes = Mapping[str, tuple[int, ...]]
"""Of weights, by their names."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """A file without its weights.

    :param metadata: as programs write it; keys of https://github.com/Stability-AI/ModelSpec begin with "modelspec.".
    """

    file: Path
    shapes: Shapes
    metadata: Mapping[str, str]

    @property
    def names(self) -> frozenset[str]:
        """Of all weights."""
        return frozenset(self.shapes)

    def has(self, prefix: str) -> bool:
        """Whether any name begins so."""
        return any(name.startswith(prefix) for name in self.shapes)

    def under(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """The shapes of the weights whose names begin so, by what follows."""
        return {name.removeprefix(prefix): shape for name, shape in self.shapes.items() if name.startswith(prefix)}


def read_header(file: Path) -> Header:
    """Read the header of a .safetensors file; the weights are not read.

    :raises ExportError: it is another kind of file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        raise ExportError(
            f"{file.name} is no .safetensors file: pickles (.ckpt) can run code when they are read. Convert it first."
        )
    try:
        with safe_open(file, "np") as content:
            shapes = {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
            return Header(file=file, shapes=shapes, metadata=content.metadata() or {})
    except (OSError, SafetensorError, ValueError) as error:
        raise ExportError(f"{file.name} cannot be read as safetensors: {error}.") from None
