"""Which parameters of diffusers' HiDreamImageTransformer2DModel are cut, along which dimension, over which ranks.

Names are those of `models/transformers/transformer_hidream_image.py` in diffusers 0.42.
"""

from __future__ import annotations

import re

from darkroom.parallel.cuts import Cut

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


def expert_of(name: str) -> int | None:
    """The number of the routed expert that a parameter belongs to; None for all others."""
    match = _EXPERT.fullmatch(name)
    return int(match[1]) if match else None
