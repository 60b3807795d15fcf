"""Which parameters of diffusers' HiDreamImageTransformer2DModel are cut, along which dimension, over which ranks.

The scheme is Megatron-LM's (Shoeybi et al. 2019, arXiv:1909.08053, section 3): the first linear layer of a pair is cut
by columns, the second by rows, and one sum over the ranks follows. Names are those of
`models/transformers/transformer_hidream_image.py` in diffusers 0.42. What no rule names is held whole by every rank.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from darkroom.parallel.layout import Place, divide

Over = Literal["tp", "all"]
"""What a parameter is cut over: the ranks of one tensor parallel group, or all ranks."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How one parameter is divided.

    :param names: regular expression that the parameter's whole name matches.
    :param dim: 0 cuts a linear layer's outputs (by columns, in Megatron's words), 1 its inputs (by rows).
    """

    names: str
    dim: int
    over: Over

    def bounds(self, name: str, shape: tuple[int, ...], place: Place) -> tuple[int, int]:
        """[start, stop) of the rank's part along `dim`. :raises InvalidInput: the parts would not be equal."""
        index, parts = place.part(self.over)
        size = divide(shape[self.dim], parts, f"elements of dimension {self.dim} of {name}", "ranks")
        return index * size, (index + 1) * size


_BLOCK = r"(?:double|single)_stream_blocks\.\d+\.block\."

CUTS = (
    # Heads are independent of each other. The RMS norms' weights go with the columns of q and k.
    Cut(names=_BLOCK + r"attn1\.to_[qkv](_t)?\.(weight|bias)", dim=0, over="tp"),
    Cut(names=_BLOCK + r"attn1\.[qk]_rms_norm(_t)?\.weight", dim=0, over="tp"),
    Cut(names=_BLOCK + r"attn1\.to_out(_t)?\.weight", dim=1, over="tp"),
    # Every rank has all tokens, so the dense feed-forwards are cut over all ranks, also those of other groups.
    Cut(names=_BLOCK + r"ff_[it]\.(shared_experts\.)?w[13]\.weight", dim=0, over="all"),
    Cut(names=_BLOCK + r"ff_[it]\.(shared_experts\.)?w2\.weight", dim=1, over="all"),
    # A group holds some of the experts whole, each rank of it a part of each.
    Cut(names=_BLOCK + r"ff_i\.experts\.\d+\.w[13]\.weight", dim=0, over="tp"),
    Cut(names=_BLOCK + r"ff_i\.experts\.\d+\.w2\.weight", dim=1, over="tp"),
    # 15 % of HiDream-I1's parameters, and its output is one row per image: cheap to gather.
    Cut(names=_BLOCK + r"adaLN_modulation\.1\.(weight|bias)", dim=0, over="all"),
)

_EXPERT = re.compile(_BLOCK + r"ff_i\.experts\.(\d+)\..+")


def cut_of(name: str) -> Cut | None:
    """How the parameter of that name is cut; None when every rank holds it whole."""
    return next((cut for cut in CUTS if re.fullmatch(cut.names, name)), None)


def expert_of(name: str) -> int | None:
    """The number of the routed expert that a parameter belongs to; None for all others."""
    match = _EXPERT.fullmatch(name)
    return int(match[1]) if match else None
