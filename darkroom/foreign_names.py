"""What other programs call our schedulers."""

from __future__ import annotations

from darkroom.diffusion.schedulers import known_name, scheduler_name
from darkroom.errors import InvalidInput

_COMFY = {
    "euler": "Euler",
    "k_euler": "Euler",
    "euler_ancestral": "Euler a",
    "k_euler_ancestral": "Euler a",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm_2": "DPM2",
    "k_dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "k_dpm_2_ancestral": "DPM2 a",
    "dpmpp_2m": "DPM++ 2M",
    "k_dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_k": "DPM++ 2M Karras",
    "euler_k": "Euler Karras",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_gpu": "DPM++ 2M SDE",
    "dpmpp_2m_sde_k": "DPM++ 2M SDE Karras",
    "ddim": "DDIM",
    "uni_pc": "UniPC",
    "lcm": "LCM",
}
"""ComfyUI's names, which SwarmUI and Fooocus write as well; InvokeAI's and NovelAI's."""
_AUTOMATIC = {
    "dpm++ 2m": "Karras",
    "dpm2": "Karras",
    "dpm2 a": "Karras",
    "dpm++ 2m sde": "Exponential",
}
"""What "Automatic" is for a sampler of the web UI since 1.9; for the others, the plain schedule."""
_PLAIN = ("", "normal", "uniform", "discrete", "default", "native")
_WITHOUT_SCHEDULE = ("DDIM", "UniPC", "LCM", "PLMS")
_OWN_SCHEDULES = ("ddim_uniform", "ddim", "sgm_uniform", "automatic")
"""Schedules that those samplers have by nature."""


def scheduler_fields(sampler: str, schedule: str | None = None, *, ours: bool = False) -> dict[str, object]:
    """The fields that a sampler and its schedule are here.

    :param schedule: None where nothing is said of it.
    :param ours: whether this service wrote them: only then it is one of flow matching, or a checkpoint's own class.
    :returns: "scheduler", a name of ours; where there is none, "sampler", "schedule_type" where one was given, and
        "unsupported".
    """
    told = (schedule or "").strip().lower().replace(" ", "_")
    title = _COMFY.get(sampler.strip().lower(), sampler.strip())
    if told == "automatic":
        told = _AUTOMATIC.get(title.lower(), "").lower()
    natural = title in _WITHOUT_SCHEDULE and told in _OWN_SCHEDULES
    repeated = told == "karras" and title.lower().endswith(" karras")
    wanted = title if told in _PLAIN or natural or repeated else f"{title} {told}"
    try:
        return {"scheduler": known_name(wanted) if ours else scheduler_name(wanted, classes=False)}
    except InvalidInput:
        both = {"sampler": sampler} | ({} if schedule is None else {"schedule_type": schedule})
        return {**both, "unsupported": {"scheduler": " ".join(both.values())}}


def other_names(scheduler: str) -> tuple[str, ...]:
    """The names that other programs have for one of our schedulers, without the web UI's own."""
    return tuple(name for name, meant in _COMFY.items() if scheduler_name(meant) == scheduler)
