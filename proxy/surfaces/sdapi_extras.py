"""AUTOMATIC1111's API: images that are enlarged, and the parameters that images carry."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request

from darkroom.errors import InvalidInput, TooLarge
from darkroom.infotext import web_ui_pairs
from darkroom.json_layouts import is_json
from darkroom.parameters import WEB_UI_KEY, read_image
from darkroom.request.fields import shown
from proxy.audit.notes import note_files
from proxy.documented import IMAGE, WORK, answers
from proxy.ignored import ignored, note
from proxy.sdapi.answers import EnlargedImage, EnlargedImages, WebUiPngInfo
from proxy.sdapi.body import read_body
from proxy.sdapi.fields import Extras, values_of, without_effect
from proxy.sdapi.images import blended
from proxy.sdapi.options import caller
from proxy.sdapi.refusals import by_their_names
from proxy.sdapi.upscalers import (
    NONE,
    Enlargement,
    by_scale,
    chosen_upscaler,
    enlarged,
    enlargement,
    enlargement_of,
    require_scale,
    to_size,
)
from proxy.sdapi.works import Work, unless
from proxy.services import Services, Use, while_connected
from proxy.uploads import take_image

router = APIRouter(prefix="/sdapi/v1", tags=["web UIs"])

IMAGE_NAME, LIST_NAME = "image", "imageList"
_TO_SIZE = 1
_Layers = tuple[Enlargement, Enlargement | None, float]
"""What is made of one image: the second one is laid over the first with that share."""


@router.post("/extra-single-image", summary="Enlarge an image", **answers(EnlargedImage, raises=(*IMAGE, *WORK)))
async def extra_single_image(request: Request, services: Use) -> dict[str, Any]:
    """With `upscaler_1`, by `upscaling_resize` or, with `resize_mode` 1, to `upscaling_resize_w` x
    `upscaling_resize_h`. The network with the next larger scale runs, and a Lanczos resize follows."""
    sent = await read_body(request, services)
    image = sent.pop(IMAGE_NAME, None)
    values = values_of(sent, Extras)
    warnings = note(request, without_effect(sent, Extras))
    if not image:
        raise InvalidInput(f"{IMAGE_NAME} is missing: send it in base64.", param=IMAGE_NAME)
    layers = [await _layers(services, values, image, IMAGE_NAME)]
    made = await while_connected(request, _run(services, layers))
    return {"html_info": _told(values), "image": made[0] if made else None, **warnings}


@router.post("/extra-batch-images", summary="Enlarge images", **answers(EnlargedImages, raises=(*IMAGE, *WORK)))
async def extra_batch_images(request: Request, services: Use) -> dict[str, Any]:
    """As extra-single-image, with `imageList`, a list of objects with `data` (base64) and `name`. A bad image has the
    whole request refused."""
    sent = await read_body(request, services)
    listed = sent.pop(LIST_NAME, None)
    values = values_of(sent, Extras)
    warnings = note(request, without_effect(sent, Extras))
    most = services.settings.max_batch_files
    if not isinstance(listed, list) or not listed:
        raise InvalidInput(f"{LIST_NAME} must be a list of 1 to {most} images; got {shown(listed)}.", param=LIST_NAME)
    if len(listed) > most:
        raise TooLarge(f"{LIST_NAME} must be a list of 1 to {most} images; got {len(listed)}.", param=LIST_NAME)
    layers = []
    for index, one in enumerate(listed):
        place = f"{LIST_NAME}[{index}]"
        if not isinstance(one, dict) or not one.get("data") or not isinstance(one.get("name", ""), str):
            raise InvalidInput(f"{place} must be an object with data, base64, and name; got {shown(one)}.", param=place)
        layers.append(await _layers(services, values, one["data"], f"{place}.data"))
    made = await while_connected(request, _run(services, layers))
    return {"html_info": _told(values), "images": made, **warnings}


@router.post("/png-info", summary="Read an image's parameters", **answers(WebUiPngInfo, raises=IMAGE))
async def png_info(request: Request, services: Use) -> dict[str, Any]:
    """`info` is the text of a PNG, JPEG or WebP that web UIs write, and `parameters` the same taken apart, with the web
    UI's names. `items` are the other texts."""
    sent = await read_body(request, services)
    warnings = note(request, ignored(sent, (IMAGE_NAME,)))
    with by_their_names({"file": IMAGE_NAME}):
        found = await take_image(sent, (IMAGE_NAME,), max_mb=services.settings.max_upload_mb)
        if found is None:
            raise InvalidInput(f"{IMAGE_NAME} is missing: send it in base64.", param=IMAGE_NAME)
        info = await asyncio.to_thread(read_image, found[1])
    text = info.parameters or ""
    items = {name: value for name, value in info.chunks.items() if name != WEB_UI_KEY}
    pairs = {} if is_json(text) else await asyncio.to_thread(web_ui_pairs, text)
    return {"info": text, "items": items, "parameters": pairs, **warnings}


async def _layers(services: Services, values: Mapping[str, Any], image: Any, param: str) -> _Layers:
    sizes = by_scale(values["upscaling_resize"])
    if values["resize_mode"] == _TO_SIZE:
        size = values["upscaling_resize_w"], values["upscaling_resize_h"]
        sizes = to_size(size, crop=values["upscaling_crop"])
    share = values["extras_upscaler_2_visibility"]
    first = chosen_upscaler(services, values["upscaler_1"], param="upscaler_1")
    second = chosen_upscaler(services, values["upscaler_2"], param="upscaler_2")
    one = await enlargement(services, first, image, param=param, sizes=sizes)
    if NONE in (first, second) or not share:
        return one, None, 0.0
    two = await enlargement_of(services, second, one.image, param=param, sizes=sizes)
    await require_scale(services, second, two.own, two.scaled, param=param)
    return one, two, share


async def _run(services: Services, layers: list[_Layers]) -> list[str]:
    """The results in base64; those that are finished when the caller interrupts."""
    made: list[bytes] = []
    work = Work(job="extras", parts=len(layers))

    async def all_of_it() -> None:
        for index, (first, second, share) in enumerate(layers):
            work.begin_part(index, 1)
            data = await enlarged(services, first, work.note_steps)
            if second is not None:
                above = await enlarged(services, second, work.note_steps)
                data = await asyncio.to_thread(blended, data, above, share, max_pixels=2 * first.most)
            made.append(data)

    with services.works.under_way(caller(), work):
        await unless(work.interrupted, services.admitted(all_of_it))
    await note_files(made)
    return await asyncio.to_thread(lambda: [base64.b64encode(data).decode() for data in made])


def _told(values: Mapping[str, Any]) -> str:
    """What the web UI shows below the image."""
    if values["resize_mode"] == _TO_SIZE:
        size = f"{values['upscaling_resize_w']}x{values['upscaling_resize_h']}"
        return f"<p>Postprocess upscale to: {size}</p>"
    return f"<p>Postprocess upscale by: {values['upscaling_resize']:g}</p>"
