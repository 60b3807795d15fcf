"""The tab that changes images as a text says, in the modes of the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio as gr

from ..fields import HELP
from ..models import Preview
from ..models_edit import EditModeInfo
from ..models_served import ServedModel
from .offer import Offer, default_of, field_of, title_of
from .running import SOURCES, Done, Service, Shown, followed, given, named, preview_every, stage_of, stopped_by
from .settings import GUIDANCE_HELP, RANDOM_SEED, USUAL_STEPS

FREE = 0
"""The mode of an edit that has none."""
TEXTS = {
    "old_text": "Old text",
    "new_text": "New text",
    "position": "Position",
    "font_type": "Font",
    "color": "Colour",
}
NAMES = ("images", "prompt", "mode", "control", "make_control", *TEXTS, "model", "steps", "true_guidance_scale", "seed")
_HELP = HELP["edit"]


def edit_tab(service: Service, offer: Offer) -> None:
    """Fill the tab."""
    if not offer.edit:
        gr.Markdown("The service has no model for editing.")
        return
    with gr.Row():
        with gr.Column(scale=2):
            controls = [*_task_controls(offer.modes), *_model_controls(offer.edit)]
            with gr.Row():
                make = gr.Button("Edit", variant="primary")
                stop = gr.Button("Stop")
        with gr.Column(scale=3):
            compared = gr.ImageSlider(label="Before and after", type="filepath", height=560, format="png")
            stage = gr.Textbox(label="State", interactive=False)
            file = gr.File(label="Result")
            made_with = gr.JSON(label="Made with", open=False)

    async def edit(*values: Any) -> AsyncIterator[tuple[Any, str, Any, Any]]:
        async for update in edited(service, dict(zip(NAMES, values, strict=True)), offer.modes):
            yield update

    running = gr.on(
        [make.click, controls[1].submit],
        named(edit, NAMES, prompt="", mode=FREE),
        controls,
        [compared, stage, file, made_with],
        api_name="edit",
        concurrency_limit=None,
        show_progress="hidden",
    )
    stopped_by(stop, running, stage)


def _task_controls(modes: Sequence[EditModeInfo]) -> list[Any]:
    """What is to be done: images, prompt, mode, and what some modes need, which is hidden for the others."""
    images = gr.Gallery(
        label="Images: the first is changed",
        type="filepath",
        interactive=True,
        columns=3,
        height=280,
        file_types=["image"],
        sources=SOURCES,
    )
    prompt = gr.Textbox(label="What to change", lines=2, placeholder="make the background red")
    names = [
        ("Free: the prompt alone says what to change", FREE),
        *((f"{one.mode}. {one.name}", one.mode) for one in modes),
    ]
    mode = gr.Dropdown(names, value=FREE, label="Mode")
    about = gr.Markdown(visible=False)
    with gr.Group(visible=False) as of_control:
        control = gr.Image(label="Control image", type="filepath", height=240, sources=SOURCES)
        make_control = gr.Checkbox(label="Make it of the first image")
    with gr.Group(visible=False) as of_text, gr.Row():
        texts = [gr.Textbox(label=label, min_width=120) for label in TEXTS.values()]
    known = {one.mode: one for one in modes}

    def chosen(number: int) -> list[Any]:
        one = known.get(number)
        return [
            gr.update(value=one.description if one else "", visible=one is not None),
            gr.update(visible=one is not None and one.requires_controlnet),
            gr.update(visible=one is not None and one.requires_text_params),
        ]

    mode.change(chosen, mode, [about, of_control, of_text], api_visibility="private", queue=False)
    return [images, prompt, mode, control, make_control, *texts]


def _model_controls(models: Sequence[ServedModel]) -> list[Any]:
    first = models[0]
    steps, scale = field_of(first, "steps"), field_of(first, "true_guidance_scale")
    names = [(title_of(model), model.name) for model in models]
    with gr.Row():
        model = gr.Dropdown(names, value=first.name, label="Model", visible=len(models) > 1)
        return [
            model,
            gr.Slider(
                steps.get("minimum", 1),
                steps.get("maximum", 100),
                value=default_of(first, "steps", USUAL_STEPS),
                step=1,
                label="Steps",
                info=_HELP["steps"],
            ),
            gr.Number(
                minimum=0,
                maximum=scale.get("maximum", 100),
                value=default_of(first, "true_guidance_scale", 0),
                label="CFG (true guidance)",
                info=GUIDANCE_HELP,
            ),
            gr.Number(label="Seed", value=RANDOM_SEED, precision=0, minimum=RANDOM_SEED, info=_HELP["seed"]),
        ]


def _arguments(said: dict[str, Any], modes: Sequence[EditModeInfo]) -> dict[str, Any]:
    """The arguments of `Client.edit`. Of controls that are hidden in this mode nothing is sent."""
    mode = next((one for one in modes if one.mode == said["mode"]), None)
    sent = given(
        images=[path for path, _ in said["images"]],
        prompt=said["prompt"],
        model=said["model"],
        steps=said["steps"],
        true_guidance_scale=said["true_guidance_scale"] or None,
        seed=said["seed"],
        preview_every=preview_every(said["steps"] or USUAL_STEPS),
    )
    if mode is None:
        return sent
    sent["mode"] = mode.mode
    if mode.requires_controlnet and said["make_control"]:
        sent["additional"] = {"make_control": True}
    elif mode.requires_controlnet:
        sent |= given(control=said["control"])
    if mode.requires_text_params:
        sent["text"] = given(**{name: said[name] for name in TEXTS})
    return sent


async def edited(
    service: Service, said: dict[str, Any], modes: Sequence[EditModeInfo]
) -> AsyncIterator[tuple[Any, str, Any, Any]]:
    """Change images; gives original and result, the state, the file, and what it was made with.

    :param said: the values of `NAMES`.
    :raises gr.Error: no image was given, or as for `followed`.
    """
    if not said["images"]:
        raise gr.Error("Images: choose the image that is to be changed.", print_exception=False)
    sent = _arguments(said, modes)
    original = sent["images"][0]
    with Shown() as shown:
        async with service.client() as client:
            work = followed(lambda heard: client.edit(on_progress=heard, on_preview=heard, **sent))
            yield None, "Waiting", None, None
            async for heard in work:
                if isinstance(heard, Done):
                    first = heard.result.images[0]
                    made = shown.file(first.data, first.media_type, f"edited-{first.seed}")
                    yield (original, made), "Done", made, dict(heard.result.parameters)
                elif isinstance(heard, Preview):
                    yield (original, shown.file(heard.image, heard.media_type)), stage_of(heard), None, None
                else:
                    yield gr.skip(), stage_of(heard), gr.skip(), gr.skip()
