"""Lists the models, their operations and the fields of their requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from darkroom.errors import NotFound
from darkroom.family import Family
from darkroom.registry import families
from proxy.answers import Model, Models
from proxy.body_fields import JSON, Fields
from proxy.documented import answers
from proxy.models import ServedModel, default_model, installed
from proxy.services import Services, Use

router = APIRouter(tags=["models"])


@router.get("/models", summary="Models and what they can do", **answers(Models))
async def models(services: Use) -> dict[str, Any]:
    """One entry for each checkpoint that is installed, and one with `installed` false for each family that is not.
    `name` is what requests say as `model`; `default_for` are the operations of requests that name none. `fields` has
    type, range and default of every field in this installation."""
    return {"models": await asyncio.to_thread(_all, services)}


@router.get("/models/{name}", summary="A model", **answers(Model, raises=(NotFound,)))
async def model(name: str, services: Use) -> dict[str, Any]:
    """404 for a name that `GET /models` does not list."""
    found = next((one for one in await asyncio.to_thread(_all, services) if one["name"] == name), None)
    if found is None:
        raise NotFound(f"There is no model {name[:80]!r}; GET /models lists those that there are.", param="name")
    return found


def _all(services: Services) -> list[dict[str, Any]]:
    there = installed(services)
    defaults = {name: default_model(services, name) for name in {model.family.operation for model in there}}
    found = []
    for one in there:
        default_for = [name for name, usual in defaults.items() if usual == one]
        found.append(_described(services, one, default_for))
    missing = [family for family in families().values() if family not in [one.family for one in there]]
    return found + [_missing(family) for family in missing]


def _described(services: Services, model: ServedModel, default_for: Sequence[str]) -> dict[str, Any]:
    family, limits = model.family, model.limits(services)
    checkpoint = model.checkpoint(services)
    known = None
    if checkpoint is not None:
        known = {"name": checkpoint.name, "hash": checkpoint.digest, "side": checkpoint.side}
    defaults = checkpoint.request_defaults if checkpoint is not None else {}
    return {
        **_named(family, model.name),
        "installed": True,
        "ready": services.monitor.ready_of(model.name) and services.fits(model.name),
        "loaded": not services.is_swapped_out(model.name),
        "default_for": list(default_for),
        "checkpoint": known,
        "fields": Fields.of(family, limits, defaults).schema(JSON)["properties"],
        "limits": family.limits(limits),
        **model.features(services),
    }


def _missing(family: Family) -> dict[str, Any]:
    hint = f"This family is not installed; export it: {family.export_command}."
    return {
        **_named(family, family.name),
        "installed": False,
        "ready": False,
        "loaded": False,
        "default_for": [],
        "hint": hint,
    }


def _named(family: Family, name: str) -> dict[str, Any]:
    return {"name": name, "family": family.name, "title": family.title, "operations": [family.operation]}
