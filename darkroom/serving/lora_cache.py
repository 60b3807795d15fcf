"""A folder of LoRAs on the machine of the networks: one file for each LoRA and network.

A LoRA is written here once; the networks read it when a row first names it. A file is named after the digest of the
LoRA file and the key of the network's layout, because the same LoRA may be read for several base models, each with its
own modules. Only the matrices are stored, as safetensors: `<module>/down` (rank, in) and `.../up` (out, rank), with
alpha / rank multiplied in. The metadata holds a summary of what was read from the LoRA file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from darkroom.errors import InvalidInput, LoraMissing
from darkroom.files import write_atomically
from darkroom.serving.lora_layout import LoraLayout
from darkroom.serving.loras import is_digest
from darkroom.serving.networks import Array

if TYPE_CHECKING:
    from darkroom.settings import Settings

_SUFFIX, _SUMMARY = ".safetensors", "summary"


class Matrices(Protocol):
    """Two matrices whose product up @ down is added to the weights of a module."""

    @property
    def down(self) -> Any:
        """(rank, in)."""

    @property
    def up(self) -> Any:
        """(out, rank)."""


@contextlib.contextmanager
def _opened(path: Path, digest: str) -> Iterator[Any]:
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except FileNotFoundError:
        raise missing(digest) from None
    except (SafetensorError, ValueError) as error:
        raise InvalidInput(f"The LoRA {digest} cannot be read: {error}", param="loras") from None


Layers = Mapping[str, Mapping[str, Matrices]]
"""Matrices by component of the checkpoint ("unet", "text_encoder"), then by the name of the module in it."""


class LoraCache:
    """Reads and writes the folder.

    :ivar folder: its path; the folder need not exist yet.
    :param limit: bytes; above this size the least recently used files are deleted.
    """

    def __init__(self, folder: Path, *, limit: float) -> None:
        self.folder = folder
        self._limit = limit

    @classmethod
    def of(cls, settings: Settings) -> LoraCache:
        """The cache in the folder that the settings name."""
        return cls(settings.lora_cache_dir, limit=settings.lora_cache_gb * 1e9)

    def has(self, digest: str, layout: LoraLayout) -> bool:
        """Whether the folder has a LoRA for a network."""
        return is_digest(digest) and self._path(digest, layout).is_file()

    def write(
        self, digest: str, layout: LoraLayout, modules: Mapping[str, Matrices], summary: Mapping[str, Any] | None = None
    ) -> None:
        """Write a LoRA for a network, unless the folder has it already.

        :param modules: the matrices by module; empty where the LoRA changes nothing in this network.
        :param summary: what was read from the LoRA file; must be valid for JSON.
        :raises OSError: the folder cannot be written.
        """
        if self.has(digest, layout):
            return
        tensors = {
            f"{module}/{name}": np.ascontiguousarray(matrix, np.float32)
            for module, matrices in modules.items()
            for name, matrix in (("down", matrices.down), ("up", matrices.up))
        }
        path = self._path(digest, layout)
        write_atomically(path, save(tensors, {_SUMMARY: json.dumps(summary or {})}))
        self._prune(keep=path)

    def read(self, digest: str, layout: LoraLayout) -> dict[str, tuple[Array, Array]]:
        """Read the matrices (down, up) of the modules of a network; empty where the LoRA changes nothing in it.

        :raises LoraMissing: the folder does not have the LoRA.
        :raises InvalidInput: the file is damaged.
        """
        path = self._path(digest, layout)
        with _opened(path, digest) as file:
            modules = {name.rpartition("/")[0] for name in file.keys()}  # noqa: SIM118  # a handle, not a dict
            found = {module: (file.get_tensor(f"{module}/down"), file.get_tensor(f"{module}/up")) for module in modules}
        with contextlib.suppress(OSError):  # only the time of the last use is lost
            os.utime(path)
        return found

    def summary(self, digest: str, layout: LoraLayout) -> dict[str, Any]:
        """Return the summary that was given to `write`.

        :raises LoraMissing, InvalidInput: as `read`.
        """
        with _opened(self._path(digest, layout), digest) as file:
            found: dict[str, Any] = json.loads((file.metadata() or {}).get(_SUMMARY, "{}"))
            return found

    def _path(self, digest: str, layout: LoraLayout) -> Path:
        """The path of a LoRA's file. :raises InvalidInput: not a digest; no other text may become a file name."""
        if not is_digest(digest):
            raise InvalidInput("A LoRA is named by the SHA-256 of its file, 64 lower-case digits.", param="loras")
        return self.folder / f"{digest}.{layout.key}{_SUFFIX}"

    def _prune(self, *, keep: Path) -> None:
        """Delete the least recently used files until the rest is within the limit."""
        states = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # another process may delete it first
                state = path.stat()
                states.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in states)
        for _, size, path in sorted(states):
            if total <= self._limit:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size


@dataclass(frozen=True, kw_only=True)
class BaseLoras:
    """The LoRAs of one base model, for all its networks.

    :param layouts: the layouts of its networks; several networks may have the same one.
    """

    cache: LoraCache
    layouts: Sequence[LoraLayout]

    def has(self, digest: str) -> bool:
        """Whether the cache has a LoRA for all networks."""
        return all(self.cache.has(digest, layout) for layout in self.layouts)

    def write(self, digest: str, layers: Layers, summary: Mapping[str, Any] | None = None) -> None:
        """Write a LoRA for all networks.

        :raises OSError: the folder cannot be written.
        """
        for layout in self.layouts:
            self.cache.write(digest, layout, layers.get(layout.component, {}), summary)

    def summary(self, digest: str) -> dict[str, Any]:
        """Return the summary of the LoRA file.

        :raises LoraMissing, InvalidInput: as `LoraCache.read`.
        """
        return self.cache.summary(digest, self.layouts[0])


def missing(digest: str) -> LoraMissing:
    """Return the error for a LoRA that is not in the folder."""
    return LoraMissing(f"The LoRA {digest} is not on the server of the networks.", param="loras", digest=digest)
