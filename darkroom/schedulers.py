"""The schedulers that requests may name: diffusers' own classes, made anew for each request.

A scheduler carries the state of one loop (multistep solvers remember earlier predictions), so none is ever shared.
torch and diffusers are imported when the first one is made, not with this module: the proxy knows the names only.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from darkroom.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class SchedulerSpec:
    """A scheduler by its name.

    :param diffusers_class: the class in diffusers.
    :param title: the name in the common web UI, which PNG parameters carry.
    :param settings: what is set beside the checkpoint's own configuration.
    """

    diffusers_class: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)


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


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter == "+").replace("++", "pp")


@cache
def _aliases() -> dict[str, str]:
    """Every way to write a name: ours, the web UI's and diffusers', whatever the case and the punctuation."""
    found = {}
    for name, spec in SCHEDULERS.items():
        for alias in (name, spec.title, spec.diffusers_class, spec.diffusers_class.removesuffix("Scheduler")):
            found[_plain(alias)] = name
    return found


def scheduler_name(text: str) -> str:
    """The key of SCHEDULERS that `text` means: "Euler a", "euler_a", "EulerAncestralDiscreteScheduler".

    :raises InvalidInput: none of that name.
    """
    name = _aliases().get(_plain(text))
    if name is None:
        raise InvalidInput(f"scheduler must be one of {', '.join(SCHEDULERS)}; got {text!r}.", param="scheduler")
    return name


def scheduler_key(config: Mapping[str, Any]) -> str:
    """The name for the class that a scheduler_config.json names: ours where we have one, else the class's own."""
    kind = str(config["_class_name"])
    return _aliases().get(_plain(kind), kind)


def make_scheduler(name: str | None, config: Mapping[str, Any]) -> Any:
    """A scheduler of its own for one request.

    :param name: a key of SCHEDULERS; None = the class that the configuration names.
    :param config: the checkpoint's scheduler_config.json.
    """
    spec = SCHEDULERS[name] if name else SchedulerSpec(diffusers_class=str(config["_class_name"]), title="")
    kind = getattr(importlib.import_module("diffusers"), spec.diffusers_class)
    return kind.from_config(dict(config), **spec.settings)
