"""The schedulers that requests may name: diffusers' own classes, made anew for each request.

A scheduler carries the state of one loop (multistep solvers remember earlier predictions), so none is ever shared.
torch and diffusers are imported when the first one is made, not with this module: the proxy knows the names only.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darkroom.errors import InvalidInput
from darkroom.fields import shown


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


SCHEDULERS: dict[str, SchedulerSpec] = {
    "ddim": SchedulerSpec(diffusers_class="DDIMScheduler", title="DDIM"),
    "pndm": SchedulerSpec(diffusers_class="PNDMScheduler", title="PLMS"),
    "euler": SchedulerSpec(diffusers_class="EulerDiscreteScheduler", title="Euler"),
    "euler_a": SchedulerSpec(diffusers_class="EulerAncestralDiscreteScheduler", title="Euler a"),
    "dpmpp_2m_karras": SchedulerSpec(
        diffusers_class="DPMSolverMultistepScheduler",
        title="DPM++ 2M Karras",
        settings={"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
    "unipc": SchedulerSpec(diffusers_class="UniPCMultistepScheduler", title="UniPC"),
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
    # What HiDream's own repository calls FlashFlowMatchEulerDiscreteScheduler: to the picture and back, new noise.
    "flow_flash": SchedulerSpec(diffusers_class="FlowMatchLCMScheduler", title="Flow Flash", shift="shift"),
}
"""For models that predict a velocity between picture and noise: flow matching (Lipman et al. 2023)."""

_ALL = {**SCHEDULERS, **FLOW_SCHEDULERS}
_OF_THE_PIPELINE = {"clip_sample": False, "steps_offset": 1}
"""What diffusers' StableDiffusionPipeline sets whatever a checkpoint says (its __init__ in
pipelines/stable_diffusion/pipeline_stable_diffusion.py): latents are no pixels, and have no bounds to be clipped to."""


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter == "+").replace("++", "pp")


def _aliases(schedulers: Mapping[str, SchedulerSpec]) -> dict[str, str]:
    """Every way to write a name: ours, the web UI's and diffusers', whatever the case and the punctuation."""
    found: dict[str, str] = {}
    for name, spec in schedulers.items():
        for alias in (name, spec.title, spec.diffusers_class, spec.diffusers_class.removesuffix("Scheduler")):
            found.setdefault(_plain(alias), name)
    return found


def scheduler_name(text: str, schedulers: Mapping[str, SchedulerSpec] = SCHEDULERS) -> str:
    """The key of `schedulers` that `text` means: "Euler a", "euler_a", "EulerAncestralDiscreteScheduler".

    :raises InvalidInput: none of that name.
    """
    name = _aliases(schedulers).get(_plain(text))
    if name is None:
        raise InvalidInput(f"scheduler must be one of {', '.join(schedulers)}; got {shown(text)}.", param="scheduler")
    return name


def known_name(text: str) -> str:
    """As `scheduler_name`, among the schedulers of all kinds of models."""
    return scheduler_name(text, _ALL)


def title(name: str) -> str:
    """The common web UI's name for a key of SCHEDULERS or FLOW_SCHEDULERS; another text as it is."""
    return _ALL[name].title if name in _ALL else name


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler_config.json is one for a model of flow matching."""
    return bool(config.get("use_flow_sigmas")) or str(config["_class_name"]).startswith("FlowMatch")


def scheduler_key(config: Mapping[str, Any]) -> str:
    """The name for the class that a scheduler_config.json names: ours where we have one, else the class's own."""
    kind = str(config["_class_name"])
    return _aliases(FLOW_SCHEDULERS if is_flow(config) else SCHEDULERS).get(_plain(kind), kind)


def flow_config(name: str, shift: float) -> dict[str, Any]:
    """The scheduler_config.json of a scheduler of FLOW_SCHEDULERS.

    :param shift: of the timesteps towards noise (Esser et al. 2024, equation 23); 1 = none.
    """
    spec = FLOW_SCHEDULERS[name]
    return {"_class_name": spec.diffusers_class, "num_train_timesteps": 1000, **spec.settings, spec.shift: shift}


def make_scheduler(name: str | None, config: Mapping[str, Any]) -> Any:
    """A scheduler of its own for one request.

    :param name: a key of SCHEDULERS or, for a checkpoint of flow matching, of FLOW_SCHEDULERS; None = the class that
        the configuration names.
    :param config: the checkpoint's scheduler_config.json.
    """
    if name in FLOW_SCHEDULERS:  # the classes have one setting in common, the shift, and each its own name for it
        config = flow_config(name, float(config.get("flow_shift", config.get("shift", 1.0))))
        name = None
    spec = SCHEDULERS[name] if name else SchedulerSpec(diffusers_class=str(config["_class_name"]), title="")
    kind = getattr(importlib.import_module("diffusers"), spec.diffusers_class)
    known = inspect.signature(kind.__init__).parameters
    of_the_pipeline = {} if is_flow(config) else {key: v for key, v in _OF_THE_PIPELINE.items() if key in known}
    return kind.from_config(dict(config), **of_the_pipeline, **spec.settings)
