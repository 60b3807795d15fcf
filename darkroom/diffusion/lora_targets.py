"""The modules of an exported checkpoint that LoRA files can change, as the reader of those files wants them."""

from __future__ import annotations

from collections.abc import Iterable

from darkroom.diffusion.lora.pack import Target, Targets
from darkroom.serving.lora_layout import LoraLayout


def targets_of(base: str, layouts: Iterable[LoraLayout]) -> Targets:
    """The targets of the networks whose layouts these are.

    :param base: what messages call the base model.
    """
    return Targets(base=base, components={layout.component: _targets(layout) for layout in layouts})


def _targets(layout: LoraLayout) -> tuple[Target, ...]:
    served = (
        Target(name=one.name, in_features=one.in_features, out_features=one.out_features, kind=one.kind)
        for one in layout.targets
    )
    others = (
        Target(
            name=one.name,
            in_features=one.in_features,
            out_features=one.out_features,
            kernel=one.kernel,
            kind=one.kind,
            servable=False,
        )
        for one in layout.others
    )
    return (*served, *others)
