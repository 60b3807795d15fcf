"""lora.json beside a network's weights: the modules that LoRAs can change, and where they stand in flat matrices.

The exporter writes it with `lora.onnx`, the same network with the matrices of LoRAs as inputs:

- `lora_index` (rows,) int64: the slot of each row, or (1,) of all rows;
- `lora_scale` (rows, rank) or (1, rank) float32: a factor for each rank of the row's slot;
- `lora_down` (slots, rank, sum of in) and `lora_up` (slots, sum of out, rank), of the type of the network's weights.

Each module adds ((x down^T) * scale) up^T to its output. Slots and rank are dynamic.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

Kind = Literal["linear", "conv"]
DType = Literal["float32", "float16"]

FILE_NAME = "lora.json"
GRAPH_NAME = "lora.onnx"
INDEX, SCALE, DOWN, UP = "lora_index", "lora_scale", "lora_down", "lora_up"
"""The graph's further inputs."""

NATIVE = "DARKROOM_NATIVE_ONNXRUNTIME"
"""An environment variable that is there where NVIDIA's own backend runs ONNX networks, which knows no LoRAs."""


@dataclass(frozen=True, kw_only=True)
class LoraTarget:
    """A module that takes a low-rank matrix.

    :param name: in its component, as diffusers or transformers has it.
    :param kind: "linear", or "conv" for a convolution with a kernel of 1 x 1.
    :param in_offset, out_offset: where it begins in the flat matrices.
    """

    name: str
    kind: Kind
    in_features: int
    out_features: int
    in_offset: int
    out_offset: int

    @property
    def columns(self) -> slice:
        """Where it lies in the sum of in."""
        return slice(self.in_offset, self.in_offset + self.in_features)

    @property
    def lines(self) -> slice:
        """Where it lies in the sum of out."""
        return slice(self.out_offset, self.out_offset + self.out_features)


@dataclass(frozen=True, kw_only=True)
class OtherModule:
    """A module that LoRA files may change, too, and for which the graph takes no matrices: files that do are refused.

    :param kernel: side of a convolution's kernel; 1 for a linear layer.
    """

    name: str
    kind: Kind
    in_features: int
    out_features: int
    kernel: int


@dataclass(frozen=True, kw_only=True)
class LoraLayout:
    """All modules of a network that take low-rank matrices.

    :param component: of the checkpoint: "unet", "text_encoder".
    :param dtype: of the matrices in the graph.
    :param others: the modules that do not.
    """

    component: str
    dtype: DType
    targets: tuple[LoraTarget, ...]
    others: tuple[OtherModule, ...] = ()

    @classmethod
    def of(
        cls,
        component: str,
        dtype: DType,
        modules: Sequence[tuple[str, Kind, int, int]],
        others: Sequence[OtherModule] = (),
    ) -> LoraLayout:
        """One module after the other.

        :param modules: (name, kind, in_features, out_features).
        """
        targets, at_in, at_out = [], 0, 0
        for name, kind, in_features, out_features in modules:
            targets.append(
                LoraTarget(
                    name=name,
                    kind=kind,
                    in_features=in_features,
                    out_features=out_features,
                    in_offset=at_in,
                    out_offset=at_out,
                )
            )
            at_in, at_out = at_in + in_features, at_out + out_features
        return cls(component=component, dtype=dtype, targets=tuple(targets), others=tuple(others))

    @classmethod
    def read(cls, folder: Path) -> LoraLayout | None:
        """Of a version folder; None where its network takes no LoRAs.

        :raises ValueError, KeyError, TypeError: not such a file.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            return None
        raw = json.loads(path.read_text())
        return cls(
            component=raw["component"],
            dtype=raw["dtype"],
            targets=tuple(LoraTarget(**target) for target in raw["targets"]),
            others=tuple(OtherModule(**module) for module in raw["others"]),
        )

    def to_json(self) -> str:
        """The content of lora.json."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that networks have in common exactly when the same LoRA files fit them."""
        modules = [[one.name, one.kind, one.in_features, one.out_features] for one in self.targets]
        return hashlib.sha256(json.dumps([self.component, sorted(modules)]).encode()).hexdigest()[:16]

    @cached_property
    def by_name(self) -> Mapping[str, LoraTarget]:
        """The modules by their names."""
        return {target.name: target for target in self.targets}

    @property
    def in_features(self) -> int:
        """The sum over all modules."""
        return sum(target.in_features for target in self.targets)

    @property
    def out_features(self) -> int:
        """The sum over all modules."""
        return sum(target.out_features for target in self.targets)
