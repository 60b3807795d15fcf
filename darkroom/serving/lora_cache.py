"""A folder of LoRAs on the machine of the networks: a file for each LoRA and network.

A LoRA is written here once; the networks read it when a row first names it. The name of a file has the digest of the
file that the LoRA was made of, and the key of the network's layout: the same LoRA may be read for several base models,
and each has modules of its own. Only the matrices are kept, as safetensors: `<module>/down` (rank, in) and `.../up`
(out, rank), with alpha / rank multiplied in. The metadata says what was read of the LoRA file.
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
    """What is added to the weights of a module: up @ down."""

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

    def has(self, digest: str, layout: LoraLayout) -> bool:
        """Whether a LoRA is there for a network."""
        return is_digest(digest) and self._path(digest, layout).is_file()

    def write(
        self, digest: str, layout: LoraLayout, modules: Mapping[str, Matrices], summary: Mapping[str, Any] | None = None
    ) -> None:
        """Put a LoRA there for a network, unless it is there already.

        :param modules: by their names; none where the LoRA changes nothing in this network.
        :param summary: what was read of the LoRA file, as JSON has it.
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
        """The matrices (down, up) of the modules of a network; none where the LoRA changes nothing in it.

        :raises LoraMissing: it is not there.
        :raises InvalidInput: the file is damaged.
        """
        path = self._path(digest, layout)
        with _opened(path, digest) as file:
            modules = {name.rpartition("/")[0] for name in file.keys()}  # noqa: SIM118  # a handle, not a dict
            found = {module: (file.get_tensor(f"{module}/down"), file.get_tensor(f"{module}/up")) for module in modules}
        with contextlib.suppress(OSError):  # only when it was used last
            os.utime(path)
        return found

    def summary(self, digest: str, layout: LoraLayout) -> dict[str, Any]:
        """What was read of the LoRA file, as `write` was told.

        :raises LoraMissing, InvalidInput: as `read`.
        """
        with _opened(self._path(digest, layout), digest) as file:
            found: dict[str, Any] = json.loads((file.metadata() or {}).get(_SUMMARY, "{}"))
            return found

    def _path(self, digest: str, layout: LoraLayout) -> Path:
        """:raises InvalidInput: not a digest: no other text may become the name of a file."""
        if not is_digest(digest):
            raise InvalidInput("A LoRA is named by the SHA-256 of its file, 64 lower-case digits.", param="loras")
        return self.folder / f"{digest}.{layout.key}{_SUFFIX}"

    def _prune(self, *, keep: Path) -> None:
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
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size


@dataclass(frozen=True, kw_only=True)
class BaseLoras:
    """The LoRAs of one base model: those of all its networks.

    :param layouts: of its networks; several may have the same one.
    """

    cache: LoraCache
    layouts: Sequence[LoraLayout]

    def has(self, digest: str) -> bool:
        """Whether a LoRA is there for all networks."""
        return all(self.cache.has(digest, layout) for layout in self.layouts)

    def write(self, digest: str, layers: Layers, summary: Mapping[str, Any] | None = None) -> None:
        """Put a LoRA there for all networks.

        :raises OSError: the folder cannot be written.
        """
        for layout in self.layouts:
            self.cache.write(digest, layout, layers.get(layout.component, {}), summary)

    def summary(self, digest: str) -> dict[str, Any]:
        """What was read of the LoRA file.

        :raises LoraMissing, InvalidInput: as `LoraCache.read`.
        """
        return self.cache.summary(digest, self.layouts[0])


def missing(digest: str) -> LoraMissing:
    """The error for a LoRA that is not in the folder."""
    return LoraMissing(f"The LoRA {digest} is not on the server of the networks.", param="loras", digest=digest)
