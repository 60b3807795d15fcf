"""Names of tensors in LoRA files: which module of which component they mean, and which part of its change they are."""

from __future__ import annotations

import re
from dataclasses import dataclass

DENOISER = "denoiser"
"""Stands for the base model's component that predicts the noise, which "unet." and "diffusion_model." both mean."""

DORA = "DoRA"
OTHERS = "another kind of adapter"
BIAS = "bias"
NORM = "norm"
EMBEDDING = "embedding"

_NAME = r"(?:\.[^.]+)?"
"""PEFT writes the adapter's name here: lora_A.default.weight."""
_ENDS = tuple(
    (re.compile(pattern + "$"), part)
    for pattern, part in (
        (rf"\.lora_(?:up|down|A|B){_NAME}\.bias", BIAS),
        (r"\.lora_(up|down|mid)(?:\.weight)?", None),
        (rf"\.lora_A(?:{_NAME}\.weight)?", "down"),
        (rf"\.lora_B(?:{_NAME}\.weight)?", "up"),
        (r"\.lora_linear_layer\.(up|down)(?:\.weight)?", None),
        (r"[._]lora\.(up|down)(?:\.weight)?", None),
        (r"(?:\.lora_linear_layer|[._]lora)?\.(alpha)", None),
        (r"\.(hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t[12])", None),
        (r"\.(diff)", None),
        (r"\.diff_b", BIAS),
        (r"\.[wb]_norm", NORM),
        (rf"\.(?:dora_scale|lora_magnitude_vector{_NAME}(?:\.weight)?)", DORA),
        (rf"\.(?:oft_blocks|oft_diag|oft_[RrSs]{_NAME}(?:\.weight)?|rescale|set_weight|[ab][12]\.weight)", OTHERS),
    )
)
"""How a name ends -> the part; None: what the brackets found."""

_WRAPPERS = ("base_model.model.", "module.")
"""What PEFT and distributed training put before every name."""
_ROOTS = (
    *((f"{before}{net}_", DENOISER) for before in ("lora_", "lycoris_") for net in ("unet", "transformer")),
    *((f"{net}.", DENOISER) for net in ("model.diffusion_model", "diffusion_model", "unet", "transformer")),
    *((f"{before}te2_", "text_encoder_2") for before in ("lora_", "lycoris_")),
    *((f"{before}te3_", "text_encoder_3") for before in ("lora_", "lycoris_")),
    *((f"{before}{te}_", "text_encoder") for before in ("lora_", "lycoris_") for te in ("te1", "te")),
    *((f"{name}.", name) for name in ("text_encoder", "text_encoder_2", "text_encoder_3")),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("lycoris_", DENOISER),
)
"""How a name begins -> the component. te1 is CLIP ViT-L and te2 OpenCLIP bigG in every file, though kohya's
documentation has it the other way round."""
_EMBEDDINGS = ("bundle_emb.", "emb_params", "clip_l", "clip_g")


@dataclass(frozen=True)
class Key:
    """The name of a tensor.

    :param component: None where the name does not say it; DENOISER as it is.
    :param module: as the file has it, with "_" for ".", so that all naming styles meet.
    :param part: "down", "up", "mid", "alpha", "diff", "hada_w1_a" ..., or one of the kinds above.
    """

    component: str | None
    module: str
    part: str


def parse(name: str) -> Key | None:
    """What the name of a tensor says; None where it is not one of a LoRA."""
    if name.startswith(_EMBEDDINGS) and "lora" not in name:
        return Key(None, flat(name), EMBEDDING)
    for pattern, part in _ENDS:
        if found := pattern.search(name):
            component, module = _root(name[: found.start()])
            return Key(component, flat(module), part or found.group(1))
    return None


def flat(module: str) -> str:
    """A module's name with "_" for "."."""
    return module.replace(".", "_")


def _root(name: str) -> tuple[str | None, str]:
    """The component, and the module without what stands before and inside its name."""
    name = _unwrapped(name.replace("_orig_mod.", "").replace(".processor.", "."))
    for root, component in _ROOTS:
        if name.startswith(root):
            return component, _unwrapped(name[len(root) :])
    return None, name


def _unwrapped(name: str) -> str:
    """A name without what wrappers put before it."""
    while wrapper := next((wrapper for wrapper in _WRAPPERS if name.startswith(wrapper)), None):
        name = name[len(wrapper) :]
    return name
