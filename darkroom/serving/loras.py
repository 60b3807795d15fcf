"""The LoRAs that the rows of a network call use: by the digest of the file, with a scale for each row.

A pipeline adds them to the inputs of a call with `RowLoras.inputs`. A host takes them out again and sends
them beside the inputs, as a request parameter (`darkroom.serving.calls.LORAS`): Triton's dynamic batcher merges only
calls that have the same inputs, and calls with and without LoRAs have to run together. The matrices are never sent;
they are in the process of the network (`darkroom.serving.onnx.lora_bank`).

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from typing_extensions import Self

from darkroom.errors import InvalidInput
from darkroom.serving.networks import Array, Tensors

DIGESTS, SCALES = "loras", "lora_scales"
"""The names of the two arrays in the inputs of a call."""
LARGEST_SCALE = 1000.0

_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(text: object) -> bool:
    """Whether a text is a SHA-256 in lower-case hexadecimal digits, and so a safe file name."""
    return isinstance(text, str) and bool(_DIGEST.fullmatch(text))


@dataclass(frozen=True, kw_only=True)
class RowLoras:
    """The LoRAs of each row.

    :param digests: (rows, n) of str; "" for no LoRA.
    :param scales: (rows, n) float32; the factor of each LoRA's matrices.
    """

    digests: Array
    scales: Array

    @classmethod
    def same(cls, rows: int, scales: Mapping[str, float]) -> Self:
        """The same LoRAs for every row.

        :param scales: the scale of each LoRA, by digest.
        """
        return cls.of_rows([scales] * rows)

    @property
    def act(self) -> bool:
        """Whether any row has a LoRA whose scale is not 0."""
        return bool(((self.digests != "") & (self.scales != 0)).any())

    def inputs(self) -> dict[str, Array]:
        """The two arrays, to be added to the inputs of a call."""
        return {DIGESTS: self.digests, SCALES: self.scales}

    def rows(self) -> list[dict[str, float]]:
        """The scale of each LoRA of each row, by digest. A row whose scales are all 0 has none."""
        found = []
        for digests, scales in zip(self.digests.tolist(), self.scales.tolist(), strict=True):
            row: dict[str, float] = {}
            for digest, scale in zip(digests, scales, strict=True):
                if digest:
                    row[digest] = row.get(digest, 0.0) + scale
            found.append(row if any(row.values()) else {})
        return found

    def to_text(self) -> str:
        """The text that `from_text` reads; "" where no LoRA acts."""
        return json.dumps([list(row.items()) for row in self.rows()]) if self.act else ""

    @classmethod
    def from_text(cls, text: str, rows: int) -> Self:
        """Read the LoRAs of a call: a JSON list with an entry for each row, each a list of [digest, scale].

        :param text: "" for no LoRAs.
        :raises InvalidInput: the text is not of this form, or not for this number of rows.
        """
        try:
            raw = json.loads(text) if text else [[]] * rows
            entries = [{str(digest): _scale(digest, scale) for digest, scale in row} for row in raw]
        except (ValueError, TypeError, OverflowError):
            raise _unreadable() from None
        if len(entries) != rows:
            raise InvalidInput(f"{DIGESTS} has {len(entries)} entries, the call has {rows} rows.", param=DIGESTS)
        return cls.of_rows(entries)

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, float]]) -> Self:
        """The LoRAs of rows as `rows()` returns them."""
        width = max((len(row) for row in rows), default=0)
        digests = np.full((len(rows), width), "", np.object_)
        scales = np.zeros((len(rows), width), np.float32)
        for at, row in enumerate(rows):
            digests[at, : len(row)] = list(row)
            scales[at, : len(row)] = list(row.values())
        return cls(digests=digests, scales=scales)

    @classmethod
    def taken_from(cls, inputs: Tensors) -> tuple[dict[str, Array], Self | None]:
        """The inputs of a call without the two arrays, and what those say; None where there are none."""
        plain = {name: array for name, array in inputs.items() if name not in (DIGESTS, SCALES)}
        if len(plain) == len(inputs):
            return plain, None
        return plain, cls(digests=inputs[DIGESTS], scales=inputs[SCALES])


def _scale(digest: object, scale: object) -> float:
    if not is_digest(digest) or isinstance(scale, bool) or not isinstance(scale, int | float):
        raise ValueError
    if not math.isfinite(scale) or abs(scale) > LARGEST_SCALE:
        raise ValueError
    return float(scale)


def _unreadable() -> InvalidInput:
    return InvalidInput(
        f"{DIGESTS} must be a JSON list with a list for each row, of [SHA-256, scale from -{LARGEST_SCALE:g} to "
        f"{LARGEST_SCALE:g}].",
        param=DIGESTS,
    )
