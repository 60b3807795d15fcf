"""A folder of LoRAs on the machine of the networks: one file for each, named by the digest of the file it was made of.

A LoRA is written here once; the networks read it when a row first names it. Only the matrices are kept, as
safetensors: `<component>/<module>/down` (rank, in) and `.../up` (out, rank), with alpha / rank multiplied in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from darkroom.errors import InvalidInput, LoraMissing
from darkroom.files import write_atomically
from darkroom.serving.loras import is_digest
from darkroom.serving.networks import Array

if TYPE_CHECKING:
    from darkroom.settings import Settings

_SUFFIX = ".safetensors"


class Matrices(Protocol):
    """What is added to the weights of a module: up @ down."""

    @property
    def down(self) -> Any:
        """(rank, in)."""

    @property
    def up(self) -> Any:
        """(out, rank)."""


Layers = Mapping[str, Mapping[str, Matrices]]
"""By component of the checkpoint ("unet", "text_encoder"), then by the name of the module in it."""


class LoraCache:
    """The folder.

    :ivar folder: which need not be there yet.
    :param limit: bytes; over it the files that were not used for the longest time are deleted.
    """

    def __init__(self, folder: Path, *, limit: float) -> None:
        self.folder = folder
        self._limit = limit

    @classmethod
    def of(cls, settings: Settings) -> LoraCache:
        """The folder that the settings name."""
        return cls(settings.lora_cache_dir, limit=settings.lora_cache_gb * 1e9)

    def has(self, digest: str) -> bool:
        """Whether a LoRA is there."""
        return is_digest(digest) and self._path(digest).is_file()

    def write(self, digest: str, layers: Layers) -> None:
        """Put a LoRA there, unless it is there already.

        :raises OSError: the folder cannot be written.
        """
        if self.has(digest):
            return
        tensors = {
            f"{component}/{module}/{name}": np.ascontiguousarray(matrix, np.float32)
            for component, modules in layers.items()
            for module, matrices in modules.items()
            for name, matrix in (("down", matrices.down), ("up", matrices.up))
        }
        write_atomically(self._path(digest), save(tensors))
        self._prune(keep=digest)

    def read(self, digest: str, component: str) -> dict[str, tuple[Array, Array]]:
        """The matrices (down, up) of the modules of one component; none where the LoRA changes nothing in it.

        :raises LoraMissing: it is not there.
        :raises InvalidInput: the file is damaged.
        """
        path = self._path(digest)
        try:
            with safe_open(path, framework="np") as file:
                names = [name.split("/") for name in file.keys()]  # noqa: SIM118  # a handle, not a dict
                modules = {module for part, module, _ in names if part == component}
                found = {
                    module: (
                        file.get_tensor(f"{component}/{module}/down"),
                        file.get_tensor(f"{component}/{module}/up"),
                    )
                    for module in modules
                }
        except FileNotFoundError:
            raise missing(digest) from None
        except (SafetensorError, ValueError) as error:
            raise InvalidInput(f"The LoRA {digest} cannot be read: {error}", param="loras") from None
        with contextlib.suppress(OSError):  # only when it was used last
            os.utime(path)
        return found

    def _path(self, digest: str) -> Path:
        """:raises InvalidInput: not a digest: no other text may become the name of a file."""
        if not is_digest(digest):
            raise InvalidInput("A LoRA is named by the SHA-256 of its file, 64 lower-case digits.", param="loras")
        return self.folder / f"{digest}{_SUFFIX}"

    def _prune(self, *, keep: str) -> None:
        """Delete what was not used for the longest time, until the rest is within the limit."""
        states = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # another process deletes, too
                state = path.stat()
                states.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in states)
        for _, size, path in sorted(states):
            if total <= self._limit:
                return
            if path.name != f"{keep}{_SUFFIX}":
                path.unlink(missing_ok=True)
                total -= size


def missing(digest: str) -> LoraMissing:
    """The error for a LoRA that is not in the folder."""
    return LoraMissing(f"The LoRA {digest} is not on the server of the networks.", param="loras", digest=digest)
