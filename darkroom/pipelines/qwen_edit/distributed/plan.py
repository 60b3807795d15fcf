"""Which parameters of diffusers' QwenImageTransformer2DModel and QwenImageControlNetModel are cut, and how.

Both have the same blocks. As `_tp_plan` of diffusers 0.42, models/transformers/transformer_qwenimage.py, and besides
the modulation: a third of the parameters of a block, and its output is a row for each image, which is cheap to gather.
"""

from __future__ import annotations

from darkroom.parallel.cuts import TP, Cut

_BLOCK = r"transformer_blocks\.\d+\."

CUTS = (
    # Heads are independent of each other, and so are their norms, which are as wide as one head.
    Cut(names=_BLOCK + r"attn\.(to_[qkv]|add_[qkv]_proj)\.(weight|bias)", dim=0, over=TP),
    Cut(names=_BLOCK + r"attn\.(to_out\.0|to_add_out)\.weight", dim=1, over=TP),
    Cut(names=_BLOCK + r"(img|txt)_mlp\.net\.0\.proj\.(weight|bias)", dim=0, over=TP),
    Cut(names=_BLOCK + r"(img|txt)_mlp\.net\.2\.weight", dim=1, over=TP),
    Cut(names=_BLOCK + r"(img|txt)_mod\.1\.(weight|bias)", dim=0, over=TP),
)
