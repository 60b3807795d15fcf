"""Groups: a pipeline of the repository and the networks that it needs, which are ready together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from darkroom.serving.networks import ModelSpec, Tensors, split_label


@dataclass(frozen=True, kw_only=True)
class Group:
    """One pipeline with its networks. Checkpoints of one family with different labels are separate groups.

    :param family: the folder of `darkroom/pipelines` that it comes from.
    :param networks: the networks in the repository with the family and the label of the pipeline; none of a pipeline
        that calls none.
    """

    family: str
    pipeline: ModelSpec
    networks: tuple[ModelSpec, ...]

    @property
    def name(self) -> str:
        """The name of the pipeline's model."""
        return self.pipeline.name

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The networks, then the pipeline."""
        return (*self.networks, self.pipeline)

    def canary(self, spec: ModelSpec) -> Tensors | None:
        """Return the inputs of a model's canary; None if it has none."""
        if spec.canary_for is not None:
            return spec.canary_for({split_label(model.name)[0] for model in self.models})
        return spec.canary() if spec.canary is not None else None

    def without_canary(self) -> tuple[str, ...]:
        """The networks without a canary of their own, which only the pipeline's canary reaches; all if each has one."""
        return tuple(n.name for n in self.networks if self.canary(n) is None) or tuple(n.name for n in self.networks)


def groups_of(models: Iterable[str], families: Mapping[str, tuple[ModelSpec, ...]]) -> dict[str, Group]:
    """Return the groups of a repository, by name.

    :param models: the names in the repository. A network without a pipeline is in no group.
    """
    known = {spec.name: (family, spec) for family, specs in families.items() for spec in specs}
    found: dict[tuple[str, str], list[ModelSpec]] = {}
    for model in sorted(models):
        plain, label = split_label(model)
        if plain in known:
            family, spec = known[plain]
            found.setdefault((family, label), []).append(spec.labelled(label))
    groups = [
        Group(family=family, pipeline=pipeline, networks=_networks(specs) if pipeline.calls_networks else ())
        for (family, _), specs in found.items()
        for pipeline in specs
        if not pipeline.is_network
    ]
    return {group.name: group for group in groups}


def _networks(specs: Iterable[ModelSpec]) -> tuple[ModelSpec, ...]:
    return tuple(spec for spec in specs if spec.is_network)
