"""The setting that says which kernels for attention a torch network tries, and in which order. No torch here."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from darkroom.family_settings import split_at_commas

KERNEL_NAMES = ("flash", "cudnn", "efficient", "math", "torch", "flash_attn", "sage")
"""flash, cudnn, efficient and math are torch's own, and torch is what torch chooses itself; flash_attn and sage (which
rounds to 8 bits) are packages."""


def _checked(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in KERNEL_NAMES:
            raise ValueError(f"must be some of {', '.join(KERNEL_NAMES)} with commas between them; got {name!r}")
        if names.count(name) > 1:
            raise ValueError(f"must name each kernel once; got {name!r} twice")
    return names


AttentionOrder = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(split_at_commas),
    AfterValidator(_checked),
    Field(
        description="Kernels for attention in the order in which they are tried when the network is loaded; the first "
        f"that works is used. Some of {', '.join(KERNEL_NAMES)}, with commas between them; flash_attn and sage need "
        "the packages flash-attn and sageattention. Empty: the fastest of torch's own first."
    ),
]
