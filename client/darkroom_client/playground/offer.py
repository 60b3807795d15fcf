"""What a service can do, as far as the playground has controls for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..client import Client
from ..models import Info
from ..models_edit import EditModeInfo
from ..models_served import ServedModel


@dataclass(frozen=True, kw_only=True)
class Offer:
    """The models of a service by operation, its upscalers, and its modes of editing.

    :param upscalers: None where no upscaler is installed.
    """

    generate: tuple[ServedModel, ...]
    edit: tuple[ServedModel, ...]
    upscalers: Info | None
    modes: tuple[EditModeInfo, ...]

    @classmethod
    def of(cls, client: Client) -> Offer:
        """Ask a service.

        :raises DarkroomError: as for `Client.models`.
        """
        models = [model for model in client.models() if model.installed]
        return cls(
            generate=_usual_first(models, "generate"),
            edit=_usual_first(models, "edit"),
            upscalers=client.info() if _usual_first(models, "upscale") else None,
            modes=tuple(client.edit_modes()),
        )

    @property
    def follows_images(self) -> tuple[ServedModel, ...]:
        """The models that have a ControlNet."""
        return tuple(model for model in self.generate if model.controls)


def _usual_first(models: list[ServedModel], operation: str) -> tuple[ServedModel, ...]:
    """The models of an operation; that of requests without a name stands first."""
    there = [model for model in models if operation in model.operations]
    return tuple(sorted(there, key=lambda model: operation not in model.default_for))


def title_of(model: ServedModel) -> str:
    """How a model is called in lists: its checkpoint, and the family where that says more."""
    checkpoint = model.raw.get("checkpoint")
    return f"{model.title} · {checkpoint['name']}" if checkpoint else model.title


def choices_of(model: ServedModel, name: str) -> list[str]:
    """The values of a field that has a list of them."""
    return [str(value) for value in field_of(model, name).get("enum", ()) if value is not None]


def field_of(model: ServedModel, name: str) -> Mapping[str, Any]:
    """The JSON Schema of a field; empty for one that the model does not have."""
    return model.fields.get(name, {})


def default_of(model: ServedModel, name: str, otherwise: Any = None) -> Any:
    """The default of a field in this installation.

    :param otherwise: where the service decides by what else is in the request.
    """
    value = field_of(model, name).get("default")
    return otherwise if value is None else value
