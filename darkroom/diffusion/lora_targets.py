"""The modules of an exported checkpoint that LoRA files can change, as the reader of those files wants them."""

from __future__ import annotations

from collections.abc import Iterable

from darkroom.diffusion.lora.pack import Target, Targets
from darkroom.serving.lora_layout import LoraLayout, LoraTarget, OtherModule


def targets_of(base: str, layouts: Iterable[LoraLayout]) -> Targets:
    """The targets of the networks whose layouts these are.

    :param base: what messages call the base model.
    """
    return Targets(base=base, components={layout.component: _targets(layout) for layout in layouts})


def _targets(layout: LoraLayout) -> tuple[Target, ...]:
    return (
        *(_target(module, kernel=1, servable=True) for module in layout.targets),
        *(_target(module, kernel=module.kernel, servable=False) for module in layout.others),
    )


def _target(module: LoraTarget | OtherModule, *, kernel: int, servable: bool) -> Target:
    return Target(
        name=module.name,
        in_features=module.in_features,
        out_features=module.out_features,
        kernel=kernel,
        kind=module.kind,
        servable=servable,
    )
