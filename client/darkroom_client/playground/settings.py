"""The settings of an image that every tab has which makes some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..fields import HELP
from ..models_served import ServedModel
from .offer import choices_of, default_of, field_of, title_of
from .running import given, preview_every

NAMES = (
    *("prompt", "negative_prompt", "model", "steps", "guidance_scale", "seed", "width", "height", "num_images"),
    "scheduler",
)
ZERO_IS_AUTOMATIC = ("guidance_scale", "width", "height")
"""Gradio's numbers cannot be empty."""
AUTOMATIC = ("Automatic", "")
RANDOM_SEED = -1
USUAL_STEPS = 20
MOST_IMAGES = 8
GUIDANCE_HELP = "0: what the checkpoint asks for. 1: no guidance, in half the time."
_HELP = HELP["generate"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The controls, in the order of `NAMES`."""

    controls: tuple[gr.components.Component, ...]
    prompt: gr.Textbox


def settings_of(models: Sequence[ServedModel]) -> Settings:
    """Make the controls for some models; ranges and defaults are those of the chosen model.

    :param models: at least one; the first is chosen.
    """
    first = models[0]
    known = _values(first)
    prompt = gr.Textbox(label="Prompt", lines=3, placeholder="What the image shows", autofocus=True)
    negative = gr.Textbox(label="Negative prompt", placeholder=_HELP["negative_prompt"])
    names = [(title_of(model), model.name) for model in models]
    model = gr.Dropdown(names, value=first.name, label="Model", visible=len(models) > 1)
    with gr.Row():
        steps = gr.Slider(label="Steps", step=1, info=_HELP["steps"], **known["steps"])
        scale = gr.Number(label="CFG (guidance)", info=GUIDANCE_HELP, **known["guidance_scale"])
    with gr.Row():
        seed = gr.Number(label="Seed", value=RANDOM_SEED, precision=0, minimum=RANDOM_SEED, info=_HELP["seed"])
        count = gr.Slider(label="Images", step=1, **known["num_images"])
    with gr.Accordion("More settings", open=False), gr.Row():
        width = gr.Number(label="Width", value=0, precision=0, minimum=0, info="In pixels; 0: automatic.")
        height = gr.Number(label="Height", value=0, precision=0, minimum=0, info="In pixels; 0: automatic.")
        scheduler = gr.Dropdown(label="Scheduler", info=_HELP["scheduler"], **known["scheduler"])
    controls = (prompt, negative, model, steps, scale, seed, width, height, count, scheduler)
    changing = {"steps": steps, "guidance_scale": scale, "num_images": count, "scheduler": scheduler}

    def chosen(name: str) -> list[Any]:
        found = next(one for one in models if one.name == name)
        return [gr.update(**_values(found)[field]) for field in changing]

    model.change(chosen, model, list(changing.values()), api_visibility="private", queue=False)
    return Settings(controls=controls, prompt=prompt)


def _values(model: ServedModel) -> dict[str, dict[str, Any]]:
    """Ranges and defaults of a model's fields, as arguments of the controls."""
    steps, scale, count = (field_of(model, name) for name in ("steps", "guidance_scale", "num_images"))
    return {
        "steps": {
            "minimum": steps.get("minimum", 1),
            "maximum": steps.get("maximum", 100),
            "value": default_of(model, "steps", USUAL_STEPS),
        },
        "guidance_scale": {
            "minimum": 0,
            "maximum": scale.get("maximum", 100),
            "value": default_of(model, "guidance_scale", 0),
        },
        "num_images": {"minimum": 1, "maximum": max(2, count.get("maximum", MOST_IMAGES)), "value": 1},
        "scheduler": {"choices": [AUTOMATIC, *choices_of(model, "scheduler")], "value": ""},
    }


def options_of(values: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """The prompt and the options of `Client.generate` that the controls say."""
    said = dict(zip(NAMES, values, strict=True))
    said |= {name: said[name] or None for name in ZERO_IS_AUTOMATIC}
    prompt = said.pop("prompt") or ""
    return prompt, given(**said, preview_every=preview_every(said["steps"] or USUAL_STEPS))
