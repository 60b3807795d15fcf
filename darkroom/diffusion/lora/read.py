"""Reads a LoRA file of any common layout into a `LoraPack` for one base model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from darkroom.diffusion.lora.forms import Misfit, low_rank
from darkroom.diffusion.lora.keys import BIAS, DENOISER, DORA, EMBEDDING, NORM, OTHERS, Key, parse
from darkroom.diffusion.lora.metadata import adapter_scale, summary
from darkroom.diffusion.lora.names import lookup
from darkroom.diffusion.lora.pack import LoraPack, LowRank, Matrix, Target, Targets
from darkroom.diffusion.lora.tensors import TensorFile, damaged, open_tensors, quoted
from darkroom.errors import InvalidInput
from darkroom.request.fields import shown

MAX_RANK = 128
"""Changes of a higher rank are approximated. It bounds what a batch with such a LoRA costs."""
MAX_ERROR = 0.2
"""Relative Frobenius error of an approximation, over which a file is refused."""
SOME = 5
"""Names that a message lists."""
_LEFT_OUT = {BIAS: "changes of biases", NORM: "changes of norms", EMBEDDING: "embeddings of new tokens"}
"""Kinds of tensors that do not act, because no low-rank matrix can say them; the rest of their file does."""

Place = tuple[str, str]
"""Component and module."""


@dataclass
class _Sorted:
    """The tensors of a file by what they are.

    :param modules: place -> part -> the tensor's name.
    :param targets: place -> module.
    :param left_out: kind of _LEFT_OUT -> names of tensors.
    :param unknown: names of tensors that are none of a LoRA, or whose module the base model does not have.
    :param refused: names of tensors that this service cannot serve -> why.
    :param components: those that the names of tensors say, whether the base model has the modules or not.
    """

    modules: dict[Place, dict[str, str]] = field(default_factory=dict)
    targets: dict[Place, Target] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    components: set[str] = field(default_factory=set)


def read(
    data: bytes,
    targets: Targets,
    *,
    others: Sequence[Targets] = (),
    max_rank: int = MAX_RANK,
    max_error: float = MAX_ERROR,
) -> LoraPack:
    """Read a LoRA file.

    :param data: the safetensors file.
    :param targets: of the base model that it shall change.
    :param others: further base models: the error for a file that is for one of them names it.
    :param max_rank: changes of a module of a higher rank become their best approximation of this rank.
    :param max_error: relative Frobenius error of an approximation, over which the file is refused.
    :raises TooLarge: the header is.
    :raises InvalidInput: it is no such file, damaged, for another base model, changes nothing, or changes layers in a
        way that cannot be served.
    """
    file = open_tensors(data)
    if not file.tensors:
        raise damaged("it has no tensors.")
    found = _sort(file, targets)
    _check_base(found, file, targets, others)
    _check_served(found)
    layers = _layers(found, file, max_rank, max_error)
    used = {name for parts in found.modules.values() for name in parts.values()}
    return LoraPack(
        digest=hashlib.sha256(data).hexdigest(),
        layers=_frozen(layers),
        applied=len(used),
        total=len(file.tensors),
        unused=tuple(name for name in file.tensors if name not in used),
        warnings=tuple(_warnings(found, file, targets.base, layers)),
        metadata=summary(file.metadata),
    )


def _sort(file: TensorFile, targets: Targets) -> _Sorted:
    """Find the module and the part of each tensor.

    :raises InvalidInput: two tensors are the same part of one module.
    """
    names, found = lookup(targets), _Sorted()
    for name in file.tensors:
        key = parse(name)
        if key is None:
            found.unknown.append(name)
            continue
        component = targets.denoiser if key.component == DENOISER else key.component
        if component is not None and key.part not in _LEFT_OUT:
            found.components.add(component)
        place, target = _place(key, component, names)
        if key.part in (DORA, OTHERS):
            found.refused[name] = key.part
        elif key.part in _LEFT_OUT:
            found.left_out.setdefault(key.part, []).append(name)
        elif place is None or target is None:
            found.unknown.append(name)
        else:
            parts = found.modules.setdefault(place, {})
            if key.part in parts:
                raise damaged(f"{quoted(parts[key.part])} and {quoted(name)} are both {key.part} of {place[1]}.")
            parts[key.part] = name
            found.targets[place] = target
    return found


def _place(
    key: Key, component: str | None, names: Mapping[str, Mapping[str, Target]]
) -> tuple[Place | None, Target | None]:
    """The module that a name means; None where there is none, or more than one component has it."""
    components = names if component is None else [component]
    hits = [(one, names[one][key.module]) for one in components if key.module in names.get(one, {})]
    if len(hits) != 1:
        return None, None
    return (hits[0][0], hits[0][1].name), hits[0][1]


def _check_base(found: _Sorted, file: TensorFile, targets: Targets, others: Sequence[Targets]) -> None:
    """:raises InvalidInput: the file is for another base model, or for none."""
    if found.refused and not found.modules:  # the layers are named by the next check
        return
    misfits = _misfits(found, file)
    served = {component for component, _ in found.modules}
    lost = targets.denoiser in found.components & targets.components.keys() and targets.denoiser not in served
    if not misfits and served and not lost:
        return
    fitting = [other.base for other in others if other.base != targets.base and _fits(file, other)]
    said = summary(file.metadata).base_model
    if fitting or lost or len(misfits) * 2 > len(found.modules) > 0:
        looks = f" It looks like one for {' or '.join(fitting)}." if fitting else ""
        says = f" The file says that it is for {shown(said)}." if said else ""
        why = f" {misfits[0] if misfits else f'It has no modules of these names: {_named(found.unknown)}.'}"
        raise damaged(f"it is not for {targets.base}.{looks}{says}{why}")
    if misfits:
        raise damaged(f"shapes are wrong. {_listed(misfits)}")
    names = _named(file.tensors)
    raise damaged(f"none of its {len(file.tensors):,} tensors changes {targets.base}: {names}.")


def _fits(file: TensorFile, targets: Targets) -> bool:
    """Whether every module that a file changes in the denoiser and in text encoders is one of this base model."""
    try:
        found = _sort(file, targets)
    except InvalidInput:
        return False
    served = {component for component, _ in found.modules}
    return bool(served) and not (found.components - served) and not _misfits(found, file)


def _misfits(found: _Sorted, file: TensorFile) -> list[str]:
    """Sentences about plain LoRA matrices whose shapes are not their module's. Other forms are checked when read."""
    sentences = []
    for place, parts in found.modules.items():
        target = found.targets[place]
        shapes = {part: file.tensors[name].shape for part, name in parts.items()}
        down, up = shapes.get("down"), shapes.get("up")
        columns = target.in_features if "mid" in shapes else target.columns
        wrong = [
            parts[part]
            for part, shape, fits in (
                ("down", down, down is None or _size(down[1:]) == columns),
                ("up", up, up is None or up[:1] == (target.out_features,)),
            )
            if shape is not None and not fits
        ]
        if wrong:
            came = " and ".join(f"{quoted(name)} has the shape {list(file.tensors[name].shape)}" for name in wrong)
            sentences.append(f"{came}, and {target.name} has {target.described}.")
    return sentences


def _size(shape: tuple[int, ...]) -> int:
    """The product; 0 of no dimension."""
    size = int(bool(shape))
    for side in shape:
        size *= side
    return size


def _check_served(found: _Sorted) -> None:
    """:raises InvalidInput: some layers are stored in a way that cannot be served, or the graph does not take them."""
    for kind, why in (
        (DORA, "DoRA needs the norms of the base model's weights"),
        (OTHERS, "they are not low-rank changes (OFT, GLoRA or the like)"),
    ):
        if names := [name for name, other in found.refused.items() if other == kind]:
            raise damaged(f"{len(names):,} layers cannot be served, because {why}: {_named(names)}.")
    if fixed := [f"{c}.{module}" for (c, module), target in found.targets.items() if not target.servable]:
        raise damaged(
            f"{len(fixed):,} layers cannot be served, because LoRAs cannot change them here: {_listed(fixed)}."
        )


def _layers(found: _Sorted, file: TensorFile, max_rank: int, max_error: float) -> dict[str, dict[str, LowRank]]:
    """The matrices of every module.

    :raises InvalidInput: a tensor is missing, or has a wrong shape or values that are not finite; or some changes are
        not nearly of `max_rank`.
    """
    in_config = adapter_scale(file.metadata)
    layers: dict[str, dict[str, LowRank]] = {}
    wrong: list[str] = []
    far: list[str] = []
    for (component, module), names in found.modules.items():
        parts = {part: file.array(name) for part, name in names.items()}
        scale = _scale(parts.pop("alpha", None), names.get("alpha", ""), component, module, in_config)
        try:
            layer = low_rank(parts, found.targets[component, module], scale, max_rank)
        except Misfit as misfit:
            wrong.append(f"{component}.{module} {misfit}.")
            continue
        layers.setdefault(component, {})[module] = layer
        if layer.error > max_error:
            far.append(f"{component}.{module} ({layer.error:.0%})")
        if len(far) == SOME:  # an approximation of every layer of a large file takes minutes
            break
    if wrong:
        raise damaged(f"its layers are not complete, or shapes are wrong. {_listed(wrong)}")
    if far:
        raise damaged(
            f"some layers cannot be served: at rank {max_rank} they differ from the file by more than "
            f"{max_error:.0%}: {_listed(far)}."
        )
    return layers


def _scale(
    alpha: Matrix | None,
    name: str,
    component: str,
    module: str,
    in_config: Callable[[str, str, int], float | None],
) -> Callable[[int], float]:
    """The scale of a module by its rank: alpha / rank, or what PEFT's config says, or 1.

    :raises InvalidInput: alpha is not one number.
    """
    if alpha is not None and alpha.size != 1:
        raise damaged(f"{quoted(name)} must be one number; got the shape {list(alpha.shape)}.")

    def scale(rank: int) -> float:
        if alpha is not None:
            return float(alpha.reshape(())) / rank
        said = in_config(component, module, rank)
        return 1.0 if said is None else said

    return scale


def _approximated(layers: Mapping[str, Mapping[str, LowRank]]) -> list[tuple[str, LowRank]]:
    """Names and matrices that are not exact, the worst first."""
    found = [
        (f"{component}.{module}", layer)
        for component, modules in layers.items()
        for module, layer in modules.items()
        if layer.error > 0.0
    ]
    return sorted(found, key=lambda item: -item[1].error)


def _warnings(
    found: _Sorted, file: TensorFile, base: str, layers: Mapping[str, Mapping[str, LowRank]]
) -> Iterable[str]:
    """What people should know of a file that can be used."""
    for kind, what in _LEFT_OUT.items():
        names = [name for name in found.left_out.get(kind, ()) if file.array(name).any()]
        if names:
            yield f"{len(names):,} {what} are not applied: {_named(names)}."
    if found.unknown:
        yield f"{len(found.unknown):,} tensors name no module of {base} and are not applied: {_named(found.unknown)}."
    if approximated := _approximated(layers):
        name, worst = approximated[0]
        yield (
            f"{len(approximated):,} layers are approximated by rank {worst.rank}; the relative error is at most "
            f"{worst.error:.1%} ({name})."
        )
    matrices = [layer for modules in layers.values() for layer in modules.values()]
    if not any(layer.up.any() and layer.down.any() for layer in matrices):
        yield "All matrices are zero, so that the file changes nothing."


def _named(tensors: Iterable[str]) -> str:
    """Some names of tensors, and how many more there are."""
    return _listed([quoted(name) for name in tensors])


def _listed(names: Sequence[str], most: int = SOME) -> str:
    """Some names, and how many more there are."""
    text = (" " if names and names[0].endswith(".") else ", ").join(names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most:,} more"


def _frozen(layers: dict[str, dict[str, LowRank]]) -> Mapping[str, Mapping[str, LowRank]]:
    """Layers that cannot be changed."""
    for modules in layers.values():
        for layer in modules.values():
            layer.down.flags.writeable = layer.up.flags.writeable = False
    return MappingProxyType({component: MappingProxyType(modules) for component, modules in layers.items()})
