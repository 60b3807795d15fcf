"""How the parameters of a model are divided over ranks, as data. No torch here.

The scheme is Megatron-LM's (Shoeybi et al. 2019, arXiv:1909.08053, section 3): the first linear layer of a pair is cut
by columns, the second by rows, and one sum over the ranks follows. What no rule names is held whole by every rank.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from darkroom.parallel.layout import Place, divide

TP = "tp"
"""The axis of tensor parallel ranks, which share attention heads and the widths of feed-forwards."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How one parameter is divided.

    :param names: regular expression that the parameter's whole name matches.
    :param dim: 0 cuts a linear layer's outputs (by columns, in Megatron's words), 1 its inputs (by rows).
    :param over: the axis whose ranks share it, or "all".
    """

    names: str
    dim: int
    over: str

    def bounds(self, name: str, shape: tuple[int, ...], place: Place) -> tuple[int, int]:
        """[start, stop) of the rank's part along `dim`. :raises InvalidInput: the parts would not be equal."""
        index, parts = place.part(self.over)
        size = divide(shape[self.dim], parts, f"elements of dimension {self.dim} of {name}", "ranks")
        return index * size, (index + 1) * size


def cut_of(cuts: Sequence[Cut], name: str) -> Cut | None:
    """How the parameter of that name is cut; None when every rank holds it whole."""
    return next((cut for cut in cuts if re.fullmatch(cut.names, name)), None)


def local_heads(heads: int, place: Place) -> int:
    """Attention heads of one rank. :raises InvalidInput: they cannot be divided evenly."""
    return divide(heads, place.part(TP)[1], "attention heads", "tensor parallel ranks")
