"""The models that a service has, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model of the service. `raw` is the whole answer, with fields that this version does not know.

    :param name: what requests say as `model`.
    :param operations: what it can do: "generate", "edit", "upscale".
    :param installed: False for a kind of model that the service could have.
    :param ready: whether it takes requests now.
    :param default_for: the operations of requests that name no model.
    :param fields: JSON Schema of each field that it takes, with range and default; empty where it is not installed.
    :param controls: the kinds of reference images that it can follow.
    """

    name: str
    title: str
    operations: tuple[str, ...]
    installed: bool
    ready: bool
    default_for: tuple[str, ...]
    fields: Mapping[str, Mapping[str, Any]]
    controls: tuple[str, ...]
    raw: Mapping[str, Any]
