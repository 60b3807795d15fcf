"""The tab that makes images of a text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from ..models import Preview, Progress
from .offer import Offer
from .running import Done, Service, Shown, followed, named, stage_of, stopped_by
from .settings import NAMES, Settings, options_of, settings_of


def create_tab(service: Service, offer: Offer) -> None:
    """Fill the tab; images come as previews first."""
    if not offer.generate:
        gr.Markdown("The service has no model that makes images.")
        return
    with gr.Row():
        with gr.Column(scale=2):
            settings = settings_of(offer.generate)
            with gr.Row():
                make = gr.Button("Generate", variant="primary")
                stop = gr.Button("Stop")
        with gr.Column(scale=3):
            images = gr.Gallery(label="Images", columns=2, object_fit="contain", height=560, format="png")
            stage = gr.Textbox(label="State", interactive=False)
            made_with = gr.JSON(label="Made with", open=False)
    _connect(service, settings, make, stop, [images, stage, made_with])


def _connect(
    service: Service, settings: Settings, make: gr.Button, stop: gr.Button, outputs: list[gr.components.Component]
) -> None:
    async def create(*values: Any) -> AsyncIterator[tuple[Any, str, Any]]:
        async for update in created(service, values):
            yield update

    running = gr.on(
        [make.click, settings.prompt.submit],
        named(create, NAMES, prompt=""),
        list(settings.controls),
        outputs,
        api_name="create",
        concurrency_limit=None,
        show_progress="hidden",
    )
    stopped_by(stop, running, outputs[1])


async def created(service: Service, values: tuple[Any, ...]) -> AsyncIterator[tuple[Any, str, Any]]:
    """Make images; gives what is shown of them, where they are, and what they were made with.

    :param values: of the controls of `settings_of`.
    :raises gr.Error: as for `followed`.
    """
    prompt, options = options_of(values)
    with Shown() as shown:
        async with service.client() as client:
            work = followed(lambda heard: client.generate(prompt, on_progress=heard, on_preview=heard, **options))
            yield [], "Waiting", None
            async for said in work:
                if isinstance(said, Done):
                    files = [
                        (shown.file(image.data, image.media_type, f"image-{image.seed}"), f"seed {image.seed}")
                        for image in said.result.images
                    ]
                    yield files, "Done", dict(said.result.parameters)
                elif isinstance(said, Preview):
                    yield [(shown.file(said.image, said.media_type), "Preview")], stage_of(said), None
                elif isinstance(said, Progress):
                    yield gr.skip(), stage_of(said), gr.skip()
