"""The tab that makes images which follow another one: the input, the map that is made of it, and the result."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from ..fields import HELP
from ..models import Preview
from .offer import Offer, choices_of, default_of, field_of
from .running import SOURCES, Done, Service, Shown, followed, given, named, stage_of, stopped_by
from .settings import NAMES as SETTINGS_NAMES
from .settings import Settings, options_of, settings_of

_HELP = HELP["generate"]
NAMES = (
    *("control_image", "control_type", "control_preprocess", "controlnet_conditioning_scale"),
    *("control_guidance_start", "control_guidance_end", "low_threshold", "high_threshold"),
)


def control_tab(service: Service, offer: Offer) -> None:
    """Fill the tab."""
    if not offer.follows_images:
        gr.Markdown("No model of the service has a ControlNet.")
        return
    with gr.Row():
        image = gr.Image(label="Input", type="filepath", height=320, sources=SOURCES)
        map = gr.Image(label="Map", type="filepath", interactive=False, height=320, format="png")
        result = gr.Image(label="Result", type="filepath", interactive=False, height=320, format="png")
    with gr.Row():
        with gr.Column(scale=3):
            settings = settings_of(offer.follows_images)
        with gr.Column(scale=2):
            controls = [image, *_controls(offer)]
            with gr.Row():
                make = gr.Button("Generate", variant="primary")
                stop = gr.Button("Stop")
            stage = gr.Textbox(label="State", interactive=False)
            made_with = gr.JSON(label="Made with", open=False)
    _connect(service, settings, controls, make, stop, [map, result, stage, made_with])


def _controls(offer: Offer) -> list[gr.components.Component]:
    """The controls of `NAMES` behind the image."""
    model = offer.follows_images[0]

    def slider(name: str, label: str, otherwise: float, step: float) -> gr.Slider:
        field = field_of(model, name)
        return gr.Slider(
            field.get("minimum", 0),
            field.get("maximum", 1),
            value=default_of(model, name, otherwise),
            step=step,
            label=label,
            info=_HELP[name],
        )

    kinds = choices_of(model, "control_type") or list(model.controls)
    kind = gr.Dropdown(kinds, value=default_of(model, "control_type", kinds[0]), label="Kind")
    makes_map = gr.Checkbox(value=True, label="Make the map of the input; else the input is a map already")
    strength = slider("controlnet_conditioning_scale", "Control strength", 1.0, 0.05)
    with gr.Accordion("More of the control", open=False):
        start = slider("control_guidance_start", "From", 0.0, 0.05)
        end = slider("control_guidance_end", "Until", 1.0, 0.05)
        low = slider("low_threshold", "Low threshold", 100, 1)
        high = slider("high_threshold", "High threshold", 200, 1)
    return [kind, makes_map, strength, start, end, low, high]


def _connect(
    service: Service,
    settings: Settings,
    controls: list[gr.components.Component],
    make: gr.Button,
    stop: gr.Button,
    outputs: list[gr.components.Component],
) -> None:
    async def control(*values: Any) -> AsyncIterator[tuple[Any, Any, str, Any]]:
        async for update in steered(service, values[: len(controls)], values[len(controls) :]):
            yield update

    running = gr.on(
        [make.click, settings.prompt.submit],
        named(control, (*NAMES, *SETTINGS_NAMES), prompt=""),
        [*controls, *settings.controls],
        outputs,
        api_name="control",
        concurrency_limit=None,
        show_progress="hidden",
    )
    stopped_by(stop, running, outputs[2])


async def steered(
    service: Service, control: tuple[Any, ...], settings: tuple[Any, ...]
) -> AsyncIterator[tuple[Any, Any, str, Any]]:
    """Make an image that follows another one; gives map, result, state, and what it was made with.

    :raises gr.Error: no image was given, or as for `followed`.
    """
    said_of_control = dict(zip(NAMES, control, strict=True))
    if not said_of_control["control_image"]:
        raise gr.Error("Input: choose the image that the result is to follow.", print_exception=False)
    prompt, options = options_of(settings)
    options |= given(**said_of_control)
    with Shown() as shown:
        async with service.client() as client:
            work = followed(lambda heard: client.generate(prompt, on_progress=heard, on_preview=heard, **options))
            yield None, None, "Waiting", None
            async for said in work:
                if isinstance(said, Done):
                    made = said.result
                    map = shown.file(made.control_map, name="map") if made.control_map else None
                    first = made.images[0]
                    file = shown.file(first.data, first.media_type, f"image-{first.seed}")
                    yield map, file, "Done", dict(made.parameters)
                elif isinstance(said, Preview):
                    yield gr.skip(), shown.file(said.image, said.media_type), stage_of(said), gr.skip()
                else:
                    yield gr.skip(), gr.skip(), stage_of(said), gr.skip()
