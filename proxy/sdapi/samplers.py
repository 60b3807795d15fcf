"""Our schedulers as AUTOMATIC1111's samplers, and the schedules that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from darkroom.diffusion.schedulers import title
from darkroom.errors import InvalidInput, NotFound
from darkroom.foreign_names import other_names, scheduler_fields
from darkroom.request.fields import shown
from proxy.models import ServedModel, installed
from proxy.services import Services

_AUTOMATIC, _UNIFORM, _KARRAS = "Automatic", "Uniform", "Karras"
SCHEDULES = (_AUTOMATIC, _UNIFORM, _KARRAS)
"""The labels that `GET /sdapi/v1/schedulers` lists."""
_WITH_KARRAS = f" {_KARRAS}"


def samplers(services: Services) -> list[dict[str, Any]]:
    """The samplers of all installed models: `name`, `aliases` and `options`, as the web UI lists them."""
    keys: dict[str, list[str]] = {}
    for model in installed(services, "generate"):
        for key in _schedulers_of(services, model):
            found = keys.setdefault(sampler_of(key)[0], [])
            found += [key] if key not in found else []
    return [
        {
            "name": name,
            "aliases": sorted({alias for key in found for alias in (key, *other_names(key))} - {name}),
            "options": {"scheduler": "karras"}
            if scheduler_fields(name, _AUTOMATIC).get("scheduler") in found[1:]
            else {},
        }
        for name, found in keys.items()
    ]


def schedules() -> list[dict[str, Any]]:
    """The schedules, as the web UI lists them."""
    return [
        {"name": label.lower(), "label": label, "aliases": None, "default_rho": -1.0, "need_inner_model": False}
        for label in SCHEDULES
    ]


def sampler_of(key: str) -> tuple[str, str]:
    """The names of a sampler and of its schedule, by one of our schedulers."""
    name = title(key)
    if name.endswith(_WITH_KARRAS):
        return name.removesuffix(_WITH_KARRAS), _KARRAS
    return name, _AUTOMATIC if scheduler_fields(name, _AUTOMATIC).get("scheduler") == key else _UNIFORM


def chosen_scheduler(
    services: Services, model: ServedModel, sampler: str | None, usual: str, schedule: str
) -> str | None:
    """The scheduler of ours that a request means; None for the checkpoint's own.

    :param sampler: None where the request names none; then `usual`, where the model has it.
    :param schedule: a name or a label of `schedules`, or another one of the web UI's.
    :raises NotFound: the model has no such sampler.
    :raises InvalidInput: it has no such schedule.
    """
    there = _schedulers_of(services, model)
    wanted = sampler or usual
    with_schedule = _meant(wanted, schedule, there)
    if with_schedule is not None:
        return with_schedule
    plain = _meant(wanted, None, there)
    if plain is not None and schedule.strip().lower() in ("", _AUTOMATIC.lower()):
        return plain  # what is automatic in the web UI is not there
    names = list(dict.fromkeys(sampler_of(key)[0] for key in there))
    if plain is None and sampler is None:
        return None
    if plain is None:
        raise NotFound(
            f"Sampler not found: sampler_name must be one of {', '.join(names)}; got {shown(wanted)}.",
            param="sampler_name",
        )
    fitting = [label for label in SCHEDULES if label == _AUTOMATIC or _meant(wanted, label, there)]
    raise InvalidInput(
        f"scheduler must be one of {', '.join(fitting)} with the sampler {wanted[:60]}; got {shown(schedule)}.",
        param="scheduler",
    )


def _meant(sampler: str, schedule: str | None, there: Sequence[str]) -> str | None:
    for name in (sampler, f"Flow {sampler}"):  # the same solver for models of flow matching
        found = scheduler_fields(name, schedule, ours=True).get("scheduler")
        if found in there:
            return str(found)
    return None


def _schedulers_of(services: Services, model: ServedModel) -> Sequence[str]:
    found: Sequence[str] = model.family.features(frozenset(services.monitor.models)).get("schedulers", ())
    return found
