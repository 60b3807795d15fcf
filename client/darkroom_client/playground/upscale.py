"""The tab that enlarges an image."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from ..fields import HELP
from ..models import Info
from .offer import Offer
from .running import SOURCES, Done, Service, Shown, followed, given, named, stage_of, stopped_by

USUAL_SCALE = 2
NAMES = ("image", "model", "scale", "format")
FORMATS = ("png", "webp", "jpeg")


def upscale_tab(service: Service, offer: Offer) -> None:
    """Fill the tab; a slider compares the result with the original."""
    if offer.upscalers is None:
        gr.Markdown("The service has no upscaler.")
        return
    with gr.Row():
        with gr.Column(scale=2):
            image = gr.Image(label="Image", type="filepath", height=320, sources=SOURCES)
            controls = [image, *_controls(offer.upscalers)]
            with gr.Row():
                make = gr.Button("Upscale", variant="primary")
                stop = gr.Button("Stop")
        with gr.Column(scale=3):
            compared = gr.ImageSlider(label="Before and after", type="filepath", height=560, format="png")
            stage = gr.Textbox(label="State", interactive=False)
            file = gr.File(label="Result")

    async def upscale(*values: Any) -> AsyncIterator[tuple[Any, str, Any]]:
        async for update in upscaled(service, *values):
            yield update

    running = make.click(
        named(upscale, NAMES, scale=USUAL_SCALE),
        controls,
        [compared, stage, file],
        api_name="upscale",
        concurrency_limit=None,
        show_progress="hidden",
    )
    stopped_by(stop, running, stage)


def _controls(info: Info) -> list[gr.components.Component]:
    models = [(f"{model.name}: {model.title}", model.name) for model in info.models]
    return [
        gr.Dropdown(models, value=info.default_model, label="Upscaler"),
        gr.Slider(1, 8, value=USUAL_SCALE, step=0.5, label="Scale", info=HELP["upscale"]["scale"]),
        gr.Dropdown(list(FORMATS), value=FORMATS[0], label="Format", info="How the result is encoded."),
    ]


async def upscaled(
    service: Service, image: str | None, model: str | None, scale: float, format: Any
) -> AsyncIterator[tuple[Any, str, Any]]:
    """Enlarge an image; gives original and result, the state, and the file.

    :raises gr.Error: no image was given, or as for `followed`.
    """
    if not image:
        raise gr.Error("Image: choose the image that is to be enlarged.", print_exception=False)
    options = given(model=model, scale=scale, format=format)
    with Shown() as shown:
        async with service.client() as client:
            work = followed(lambda heard: client.upscale(image, on_progress=heard, **options))
            yield None, "Waiting", None
            async for said in work:
                if isinstance(said, Done):
                    made = shown.file(said.result.image, said.result.media_type, f"upscaled-{scale:g}x")
                    yield (image, made), "Done", made
                else:
                    yield gr.skip(), stage_of(said, "Tile"), gr.skip()
