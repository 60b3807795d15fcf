"""What a LoRA is here, whatever layout its file has: two small matrices for each module that it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Kind = Literal["linear", "conv"]

DENOISERS = ("unet", "transformer")
"""Components that predict the noise. A base model has one of them."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A module of a base model that LoRA files can change.

    :param name: in its component, as diffusers or transformers calls it.
    :param in_features, out_features: of a convolution its channels.
    :param kernel: side of a convolution's kernel in pixels; 1 for a linear module.
    :param servable: whether the network's graph takes matrices for it. Files that change a module which does not are
        refused, because without that part their images would be others.
    """

    name: str
    in_features: int
    out_features: int
    kernel: int = 1
    kind: Kind = "linear"
    servable: bool = True

    @property
    def columns(self) -> int:
        """Columns of a down matrix: the inputs, of a convolution times the pixels of its kernel."""
        return self.in_features * self.kernel**2

    @property
    def described(self) -> str:
        """Its shape, for error messages."""
        kernel = f" and a kernel of {self.kernel}x{self.kernel}" if self.kernel > 1 else ""
        return f"{self.in_features} inputs, {self.out_features} outputs{kernel}"


@dataclass(frozen=True, kw_only=True)
class Targets:
    """All modules of one base model that LoRA files can change.

    :param base: the name of the base model, for messages.
    :param components: component ("unet" or "transformer", "text_encoder", "text_encoder_2") -> its modules.
    :param aliases: component -> further names that files use for its modules -> the module.
    """

    base: str
    components: Mapping[str, Sequence[Target]]
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def denoiser(self) -> str:
        """The component that predicts the noise; "unet" where none is listed."""
        return next((name for name in DENOISERS if name in self.components), DENOISERS[0])


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """What is added to the weights of one module at weight 1: `up @ down`.

    :param down: (rank, in) float32. Of a convolution (rank, in * kernel * kernel), the columns in the order of
        (in, height, width), so that a reshape gives the kernel of a convolution with `rank` outputs.
    :param up: (out, rank) float32, with alpha / rank multiplied in.
    :param error: relative Frobenius error where the file's change is not of this rank; 0 where nothing was left out.
    """

    down: Matrix
    up: Matrix
    error: float = 0.0

    @property
    def rank(self) -> int:
        """Rows of `down` and columns of `up`."""
        return int(self.down.shape[0])

    def delta(self) -> Matrix:
        """The change of the module's weights, (out, columns of `down`) float32."""
        return self.up @ self.down


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a file says about itself in its metadata.

    :param base_model: as its trainer calls it.
    :param trigger_words: that the author names.
    :param tags: the most frequent words of the training captions, the most frequent one first.
    :param rank, alpha: of the training, None where it does not say.
    """

    title: str = ""
    base_model: str = ""
    trigger_words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    rank: float | None = None
    alpha: float | None = None


@dataclass(frozen=True, kw_only=True)
class LoraPack:
    """A LoRA file that was read for one base model.

    :param digest: SHA-256 of the file, 64 lower-case hexadecimal digits.
    :param layers: component -> module -> its matrices.
    :param applied, total: tensors of the file that act, and all of them.
    :param unused: names of the tensors that do not act, in the order of the file.
    :param warnings: sentences for people: what was left out or approximated, and how far.
    """

    digest: str
    layers: Mapping[str, Mapping[str, LowRank]]
    applied: int
    total: int
    unused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    metadata: Summary = field(default_factory=Summary)

    @property
    def rank(self) -> int:
        """The largest rank of its layers."""
        return max((layer.rank for modules in self.layers.values() for layer in modules.values()), default=0)


@dataclass(frozen=True, kw_only=True)
class Combined:
    """Several LoRAs as one: their ranks stand one after the other, in every module at the same place.

    The matrices do not depend on the weights. So the weights may change at each step, by a factor for each rank.
    """

    packs: tuple[LoraPack, ...]

    @property
    def rank(self) -> int:
        """The sum of the packs' ranks."""
        return sum(pack.rank for pack in self.packs)

    def scales(self, weights: Sequence[float]) -> Matrix:
        """The factor of each rank, (rank,) float32.

        :param weights: one for each pack.
        :raises ValueError: their number is another one than that of the packs.
        """
        ranks = [pack.rank for pack in self.packs]
        if len(weights) != len(ranks):
            raise ValueError(f"{len(ranks)} LoRAs need {len(ranks)} weights; got {len(weights)}.")
        return np.repeat(np.asarray(weights, np.float32), ranks)

    def layers(self) -> dict[str, dict[str, LowRank]]:
        """Component -> module -> the matrices of all packs, with zeros where a pack does not change the module."""
        names: dict[str, dict[str, None]] = {component: {} for pack in self.packs for component in pack.layers}
        for pack in self.packs:
            for component, modules in pack.layers.items():
                names[component] |= dict.fromkeys(modules)
        return {
            component: {module: self._layer(component, module) for module in modules}
            for component, modules in names.items()
        }

    def _layer(self, component: str, module: str) -> LowRank:
        """All ranks of one module."""
        found = [pack.layers.get(component, {}).get(module) for pack in self.packs]
        some = next(layer for layer in found if layer is not None)
        down = np.zeros((self.rank, some.down.shape[1]), np.float32)
        up = np.zeros((some.up.shape[0], self.rank), np.float32)
        start = 0
        for pack, layer in zip(self.packs, found, strict=True):
            if layer is not None:
                down[start : start + layer.rank] = layer.down
                up[:, start : start + layer.rank] = layer.up
            start += pack.rank
        return LowRank(down=down, up=up, error=max(layer.error for layer in found if layer is not None))


def combine(packs: Sequence[LoraPack]) -> Combined:
    """Several LoRAs of one base model as one; `Combined.scales` takes their weights."""
    return Combined(packs=tuple(packs))
