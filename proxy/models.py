"""Which models this installation serves, and which one a request means with its `model`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.diffusion.checkpoint import CheckpointInfo
from darkroom.diffusion.image_check import FEATURE as CHECKS_IMAGES
from darkroom.errors import InvalidInput, NotFound
from darkroom.family import Family, Operation
from darkroom.registry import families, is_chosen
from darkroom.request.fields import shown
from darkroom.request.request import Request
from darkroom.serving.networks import ModelSpec, split_label
from proxy.services import Services

_CALLED: dict[Operation, str] = {
    "generate": "text to image model",
    "edit": "model for editing",
    "upscale": "upscaler",
    "train": "model to train",
}


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A checkpoint of a family, as requests name it.

    :param label: see `darkroom.serving.networks.ModelSpec.labelled`.
    """

    family: Family
    label: str = ""

    @property
    def pipeline(self) -> ModelSpec:
        """Its pipeline in Triton."""
        return self.family.pipeline.labelled(self.label)

    @property
    def name(self) -> str:
        """The name of its pipeline in Triton, which requests can use as well."""
        return self.pipeline.name

    def checkpoint(self, services: Services) -> CheckpointInfo | None:
        """The information from the export; None if it cannot be read, as for a repository on another machine."""
        return self.family.read_checkpoint(services.settings.model_repository, self.label)

    def features(self, services: Services) -> Mapping[str, Any]:
        """Its further abilities, which depend on the networks that are there under its label; see `Family.features`."""
        names = services.monitor.models or [path.name for path in services.settings.model_repository.glob("*")]
        return self.family.features({plain for plain, label in map(split_label, names) if label == self.label})

    def checks_images(self, services: Services) -> bool:
        """Whether the repository has the safety checker of its checkpoint."""
        return bool(self.features(services).get(CHECKS_IMAGES))

    def limits(self, services: Services) -> Any:
        """The family's settings."""
        return services.settings.family(self.family.name)

    def parse(self, services: Services, fields: dict[str, Any]) -> Request:
        """Make the request from the fields.

        :raises InvalidInput, TooLarge: one of them is out of range.
        """
        checkpoint, limits = self.checkpoint(services), self.limits(services)
        defaults = checkpoint.request_defaults if checkpoint else None
        request = self.family.request.parse(fields, limits, defaults)
        if checkpoint is not None:
            request.completed(checkpoint, limits)  # the same checks as in the model
        return request

    def completed(self, services: Services, request: Request) -> Request:
        """Return a checked request with the checkpoint's values for absent fields, if the checkpoint is known."""
        checkpoint = self.checkpoint(services)
        return request if checkpoint is None else request.completed(checkpoint, self.limits(services))

    def require_ready(self, services: Services) -> None:
        """:raises NotFound, InvalidInput, NotReady: the model is not installed or too large; it does not work now."""
        self.require(services)
        services.monitor.require(self.name)

    def require(self, services: Services) -> None:
        """:raises NotFound: the model is not installed. Not checked while a Triton has not said what it has.
        :raises InvalidInput: it does not fit into DEVICE_MEMORY_GB.
        """
        services.require_chosen(self.name)
        if services.monitor.complete and self.name not in services.monitor.models:
            # Not 503, which means that it will be available soon.
            raise NotFound(
                f"This installation has no {_CALLED[self.family.operation]} {self.name}; export one: "
                f"{self.family.export_command}.",
                param="model",
            )
        if services.swapper is not None:
            services.swapper.require_fits(self.name)


def of_operation(operation: Operation) -> list[Family]:
    """Return the families that can do an operation, the default first."""
    found = [family for family in families().values() if family.operation == operation]
    return sorted(found, key=lambda family: (family.order, family.name))


def installed(services: Services, operation: Operation | None = None) -> list[ServedModel]:
    """Return the installed models, the default of each operation first.

    They are those of Triton; until it has started, those with a folder in the repository.
    """
    names = set(services.monitor.models) or {path.name for path in services.settings.model_repository.glob("*")}
    order = sorted(families().values(), key=lambda family: (family.operation, family.order, family.name))
    return [
        model
        for family in order
        if operation in (None, family.operation)
        for model in _of_family(family, names)
        if services.monitor.models or _has_export(services, model)
    ]


def _of_family(family: Family, names: Iterable[str]) -> Iterator[ServedModel]:
    for name in sorted(names):
        plain, label = split_label(name)
        if plain == family.pipeline.name:
            yield ServedModel(family=family, label=label)


def _has_export(services: Services, model: ServedModel) -> bool:
    if not is_chosen(model.name, services.settings):
        return False
    folder = services.settings.model_repository / model.name / "1"
    return any((folder / name).exists() for name in (*model.family.pipeline.files, "model.py"))


def default_model(services: Services, operation: Operation) -> ServedModel:
    """Return the model for requests that name none: the first installed one, else that of the first family."""
    there = installed(services, operation)
    return there[0] if there else ServedModel(family=of_operation(operation)[0])


def choose_model(services: Services, operation: Operation, name: object) -> ServedModel:
    """Return the model that a request names.

    :param name: of a family, of a pipeline with the label of its checkpoint, of a label alone, or of a checkpoint;
        None or "" for the default.
    :raises InvalidInput: the name is unknown, or the model is for another operation.
    :raises NotFound: it is known but not installed.
    """
    if name is None or name == "":
        return default_model(services, operation)
    wanted = name.strip().lower() if isinstance(name, str) else ""
    there = installed(services)
    found = [model for model in there if wanted in _names(services, model)]
    fitting = [model for model in found if model.family.operation == operation]
    if fitting:
        return fitting[0]
    plain, label = split_label(wanted)
    family = next((one for one in families().values() if plain in (one.name, one.pipeline.name)), None)
    if found or (family is not None and family.operation != operation):
        other = found[0].family.operation if found else family.operation if family else ""
        raise InvalidInput(f"model {shown(name)} is for {other}, and not for {operation}.", param="model")
    if family is not None:
        ServedModel(family=family, label=label).require(services)
        return ServedModel(family=family, label=label)
    known = ", ".join(model.name for model in there if model.family.operation == operation) or "none"
    raise InvalidInput(f"model must be one of {known}; got {shown(name)}.", param="model")


def _names(services: Services, model: ServedModel) -> set[str]:
    """Return the names that requests may use for a model, in lower case."""
    checkpoint = model.checkpoint(services)
    names = {model.name, model.label, "" if model.label else model.family.name}
    return {name.lower() for name in (*names, checkpoint.name if checkpoint else "") if name}
