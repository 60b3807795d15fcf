"""The schedulers that requests may name: diffusers' own classes, created again for each request.

A scheduler carries the state of one loop (multistep solvers remember earlier predictions), so none is ever shared.
torch and diffusers are imported when the first one is made, not with this module: the proxy knows the names only.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darkroom.errors import InvalidInput
from darkroom.request.field import Field
from darkroom.request.fields import shown


@dataclass(frozen=True, kw_only=True)
class SchedulerSpec:
    """A scheduler by its name.

    :param diffusers_class: the class in diffusers.
    :param title: the name in the common web UI, which PNG parameters carry.
    :param settings: what is set beside the checkpoint's own configuration.
    :param shift: of flow matching, the class's name for the shift of the timesteps; "" for the others.
    """

    diffusers_class: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    shift: str = ""


def _sigmas(**changes: bool) -> dict[str, bool]:
    """Every way to space the noise levels but the plain one is a setting of its own, and may be in a checkpoint's
    configuration: a name has to mean the same whatever that says."""
    names = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    return dict.fromkeys(names, False) | changes


def _multistep(algorithm: str, *, karras: bool) -> SchedulerSpec:
    title = {"dpmsolver++": "DPM++ 2M", "sde-dpmsolver++": "DPM++ 2M SDE"}[algorithm]
    return SchedulerSpec(
        diffusers_class="DPMSolverMultistepScheduler",
        title=f"{title} Karras" if karras else title,
        settings={
            "algorithm_type": algorithm,
            "solver_order": 2,
            **_sigmas(use_karras_sigmas=karras),
            "use_lu_lambdas": False,
            "use_flow_sigmas": False,
        },
    )


SCHEDULERS: dict[str, SchedulerSpec] = {
    "ddim": SchedulerSpec(diffusers_class="DDIMScheduler", title="DDIM"),
    "pndm": SchedulerSpec(diffusers_class="PNDMScheduler", title="PLMS"),
    "euler": SchedulerSpec(diffusers_class="EulerDiscreteScheduler", title="Euler", settings=_sigmas()),
    "euler_karras": SchedulerSpec(
        diffusers_class="EulerDiscreteScheduler", title="Euler Karras", settings=_sigmas(use_karras_sigmas=True)
    ),
    "euler_a": SchedulerSpec(diffusers_class="EulerAncestralDiscreteScheduler", title="Euler a"),
    "dpmpp_2m": _multistep("dpmsolver++", karras=False),
    "dpmpp_2m_karras": _multistep("dpmsolver++", karras=True),
    "dpmpp_2m_sde": _multistep("sde-dpmsolver++", karras=False),
    "dpmpp_2m_sde_karras": _multistep("sde-dpmsolver++", karras=True),
    "heun": SchedulerSpec(diffusers_class="HeunDiscreteScheduler", title="Heun", settings=_sigmas()),
    "dpm2": SchedulerSpec(diffusers_class="KDPM2DiscreteScheduler", title="DPM2", settings=_sigmas()),
    "dpm2_a": SchedulerSpec(diffusers_class="KDPM2AncestralDiscreteScheduler", title="DPM2 a", settings=_sigmas()),
    "unipc": SchedulerSpec(
        diffusers_class="UniPCMultistepScheduler",
        title="UniPC",
        settings={"solver_order": 2, **_sigmas(), "use_flow_sigmas": False},
    ),
    "lcm": SchedulerSpec(diffusers_class="LCMScheduler", title="LCM"),
}
"""For models that predict noise (Ho et al. 2020)."""

FLOW_SCHEDULERS: dict[str, SchedulerSpec] = {
    "flow_euler": SchedulerSpec(diffusers_class="FlowMatchEulerDiscreteScheduler", title="Flow Euler", shift="shift"),
    "flow_unipc": SchedulerSpec(
        diffusers_class="UniPCMultistepScheduler",
        title="Flow UniPC",
        settings={"prediction_type": "flow_prediction", "use_flow_sigmas": True},
        shift="flow_shift",
    ),
    # Also known as FlashFlowMatchEulerDiscreteScheduler: each step goes to the image and back, with new noise.
    "flow_flash": SchedulerSpec(diffusers_class="FlowMatchLCMScheduler", title="Flow Flash", shift="shift"),
}
"""For models that predict a velocity between image and noise: flow matching (Lipman et al. 2023)."""

_ALL = {**SCHEDULERS, **FLOW_SCHEDULERS}
_CLASS = re.compile(r"[A-Z][A-Za-z0-9]{2,60}Scheduler")
_DYNAMIC = (
    "use_dynamic_shifting",
    "time_shift_type",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "shift_terminal",
)
"""Settings of flow matching for a shift that depends on the size of the image, in all classes that have them."""


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter == "+").replace("++", "pp")


def _aliases(schedulers: Mapping[str, SchedulerSpec]) -> dict[str, str]:
    """Every way to write a name: ours, the web UI's and diffusers', whatever the case and the punctuation.

    A class of diffusers whose name of ours sets something is itself: a user who names it means the class as the
    checkpoint's configuration has it.
    """
    found: dict[str, str] = {}
    for name, spec in schedulers.items():
        own = name if not spec.settings or spec in FLOW_SCHEDULERS.values() else spec.diffusers_class
        short = spec.diffusers_class.removesuffix("Scheduler")
        for alias, meant in ((name, name), (spec.title, name), (short, name), (spec.diffusers_class, own)):
            found.setdefault(_plain(alias), meant)
    return found


def scheduler_name(text: str, schedulers: Mapping[str, SchedulerSpec] = SCHEDULERS, *, classes: bool = True) -> str:
    """What `text` means: a key of `schedulers` ("Euler a", "euler_a", "EulerAncestralDiscreteScheduler"), or the name
    of a class of diffusers, which has yet to be compared with the checkpoint's own: see `make_scheduler`.

    :param classes: whether classes that have no name here count.
    :raises InvalidInput: none of that name.
    """
    name = _aliases(schedulers).get(_plain(text))
    if name is not None:
        return name
    if classes and _CLASS.fullmatch(text):
        return text
    raise _unknown(text, schedulers)


def _unknown(text: str, schedulers: Mapping[str, SchedulerSpec]) -> InvalidInput:
    return InvalidInput(f"scheduler must be one of {', '.join(schedulers)}; got {shown(text)}.", param="scheduler")


def known_name(text: str) -> str:
    """Return the name as `scheduler_name` does, looking at the schedulers of all kinds of models."""
    return scheduler_name(text, _ALL)


def title(name: str) -> str:
    """The common web UI's name for a key of SCHEDULERS or FLOW_SCHEDULERS; another text as it is."""
    return _ALL[name].title if name in _ALL else name


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler_config.json is one for a model of flow matching."""
    return bool(config.get("use_flow_sigmas")) or str(config["_class_name"]).startswith("FlowMatch")


def scheduler_key(config: Mapping[str, Any], name: str | None = None) -> str:
    """The name to record, under which the same scheduler is made again of the same checkpoint.

    :param config: the checkpoint's scheduler_config.json.
    :param name: what the request named, as `scheduler_name` gives it; None = the checkpoint's own.
    :returns: a key of ours where that makes the very same scheduler, else the name of the class.
    """
    if name in _ALL:
        return str(name)
    kind = name or str(config["_class_name"])
    wanted = None
    for key, spec in (FLOW_SCHEDULERS if is_flow(config) else SCHEDULERS).items():
        if spec.diffusers_class == kind:
            wanted = wanted or _settings(make_scheduler(name, config))
            if _settings(make_scheduler(key, config)) == wanted:
                return key
    return kind


def _settings(scheduler: Any) -> dict[str, Any]:
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}


def flow_config(name: str, shift: float) -> dict[str, Any]:
    """The scheduler_config.json of a scheduler of FLOW_SCHEDULERS.

    :param shift: of the timesteps towards noise (Esser et al. 2024, equation 23); 1 = none.
    """
    spec = FLOW_SCHEDULERS[name]
    return {"_class_name": spec.diffusers_class, "num_train_timesteps": 1000, **spec.settings, spec.shift: shift}


def make_scheduler(name: str | None, config: Mapping[str, Any]) -> Any:
    """A scheduler of its own for one request.

    :param name: a key of SCHEDULERS or, for a checkpoint of flow matching, of FLOW_SCHEDULERS; or the name of a class
        in diffusers, that of the checkpoint or one of SCHEDULERS, as the configuration has it; None = the class that
        the configuration names.
    :param config: the checkpoint's scheduler_config.json, as pipeline.json has it: see `Checkpoint.scheduler`.
    :raises InvalidInput: another class.
    """
    if name is not None and name in FLOW_SCHEDULERS:
        config, name = _converted(name, config), None
    spec = SCHEDULERS[name] if name is not None and name in SCHEDULERS else _as_configured(name, config)
    kind = _class(spec)
    known = _arguments(kind)
    settings = {key: value for key, value in spec.settings.items() if key in known}
    return kind.from_config(dict(config), **settings)


def _converted(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of flow matching for another class: of the settings only the shift is common to all, by two
    names, and what it depends on to those that know of it."""
    known = _arguments(_class(FLOW_SCHEDULERS[name]))
    dynamic = {key: config[key] for key in _DYNAMIC if key in config and key in known}
    return {**flow_config(name, float(config.get("flow_shift", config.get("shift", 1.0)))), **dynamic}


def _class(spec: SchedulerSpec) -> Any:
    return getattr(importlib.import_module("diffusers"), spec.diffusers_class)


def _arguments(kind: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind.__init__).parameters


def _as_configured(name: str | None, config: Mapping[str, Any]) -> SchedulerSpec:
    own = str(config["_class_name"])
    classes = () if is_flow(config) else {spec.diffusers_class for spec in SCHEDULERS.values()}
    if name is not None and name != own and name not in classes:
        raise _unknown(name, FLOW_SCHEDULERS if is_flow(config) else SCHEDULERS)
    return SchedulerSpec(diffusers_class=name or own, title="")


SCHEDULER_FIELD = Field(
    help="By default the checkpoint's own. The names of web UIs and of diffusers are understood, too.",
    words=tuple(SCHEDULERS),
    convert=scheduler_name,
)
"""The field of requests to families that predict noise."""
