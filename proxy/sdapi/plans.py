"""From the fields of txt2img and img2img to what is run: the model, the request of a batch, and the second pass."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from darkroom.errors import InvalidInput, NotFound
from darkroom.request.field import resolved
from darkroom.request.fields import shown
from darkroom.request.image import ImageRequest
from proxy.models import ServedModel, default_model
from proxy.operations.taking import Taken, names_of, take
from proxy.policy.judging import Warnings, require_unchanged
from proxy.sdapi.controlnet import SCRIPTS, UNIT_NAMES, control_fields
from proxy.sdapi.fields import MOST_IMAGES
from proxy.sdapi.images import Size, cropped_to, mask_of
from proxy.sdapi.options import model_of
from proxy.sdapi.refusals import PROCESSING, by_their_names
from proxy.sdapi.samplers import chosen_scheduler
from proxy.sdapi.upscalers import (
    LANCZOS,
    LATENT_MODES,
    NONE,
    by_scale,
    check_size,
    chosen_upscaler,
    is_network,
    require_scale,
    title_of,
    to_size,
)
from proxy.services import Services
from proxy.tasks.tasks import Tasks
from proxy.uploads import take_image

_STEPS = 50
_SIDES = ("width", "height")
_CROP = 1


@dataclass(frozen=True, kw_only=True)
class SecondPass:
    """What `enable_hr` does with each image.

    :param sizes: of the enlarged image, by the size of the image; `size` is the result's.
    :param request: of the change afterwards, without image and seed; None where it is only enlarged.
    """

    upscaler: str
    sizes: Callable[[Size], tuple[Size, Size]]
    size: Size
    request: ImageRequest | None

    def pairs(self, size: Size) -> dict[str, Any]:
        """What the parameters of an image say of it.

        :param size: of the image before.
        """
        steps = {} if self.request is None else {"Hires steps": self.request.steps}
        return {"Hires upscale": self.size[0] / size[0], **steps, "Hires upscaler": title_of(self.upscaler)}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a request is.

    :param request: of the first batch; the k-th one has `seed` + k x `num_images`.
    :param images: of all batches; the last one may have fewer.
    :param values: AUTOMATIC1111's fields, with their defaults.
    :param warnings: of what the content policy changed.
    """

    model: ServedModel
    request: ImageRequest
    images: int
    second: SecondPass | None
    values: Mapping[str, Any]
    warnings: Warnings

    def require_ready(self, services: Services) -> None:
        """:raises NotFound, NotReady: one of its models is not installed; it does not work at the moment."""
        self.model.require_ready(services)
        if self.second is not None and is_network(self.second.upscaler):
            default_model(services, "upscale").require_ready(services)

    @property
    def batches(self) -> int:
        """How often the request is run."""
        return math.ceil(self.images / self.request.num_images)

    @property
    def parts(self) -> int:
        """Batches, and images that are enlarged: see `proxy.sdapi.works.Work`."""
        return self.batches + (self.images if self.second else 0)


async def planned(services: Services, tasks: Tasks, values: dict[str, Any], images: Mapping[str, Any]) -> Plan:
    """Check a request.

    :param values: as `values_of` gives them.
    :param images: `init_images` and `mask` of img2img, as they were sent.
    :raises DarkroomError: it is refused; names AUTOMATIC1111's field.
    """
    if values["script_name"]:
        raise InvalidInput(f"Script {shown(values['script_name'])} not found; there are none.", param="script_name")
    model = await model_of(tasks, services, values["override_settings"] or {})
    if values["steps"] is None:
        values["steps"] = min(_STEPS, int(_bounds(services, model, "steps")[1]))
    fields = {
        "prompt": values["prompt"],
        "negative_prompt": values["negative_prompt"],
        "seed": values["seed"],
        "num_images": values["batch_size"],
        "steps": values["steps"],
        "guidance_scale": values["cfg_scale"],
        "width": values["width"],
        "height": values["height"],
        "scheduler": chosen_scheduler(
            services, model, values["sampler_name"], values["sampler_index"], values["scheduler"]
        ),
    }
    fields = {name: value for name, value in fields.items() if name in names_of(model)}
    originals = await _originals(services, model, values, images)
    control = control_fields(values[SCRIPTS] or {}, originals.get("init_image"))
    whole = values["n_iter"] * values["batch_size"]
    with by_their_names({**PROCESSING, **UNIT_NAMES}):
        taken = await take(services, model, {**fields, **originals, **control}, whole=whole)
    request = cast(ImageRequest, taken.request)
    if taken.count > MOST_IMAGES:
        raise InvalidInput(
            f"n_iter x batch_size must be at most {MOST_IMAGES}; got {values['n_iter']} x {values['batch_size']}.",
            param="n_iter",
        )
    second = _second_pass(services, taken, values) if values.get("enable_hr") else None
    if second is not None:
        own = request.width or 0, request.height or 0
        await require_scale(services, second.upscaler, own, second.sizes(own)[0], param="hr_scale")
        if second.request is not None:
            checks = await require_unchanged(services, model, second.request, param="hr_scale")
            second = replace(second, request=second.request.with_values(**checks))
    return Plan(
        model=model,
        request=request,
        images=taken.count,
        second=second,
        values=values,
        warnings=taken.warnings,
    )


def _bounds(services: Services, model: ServedModel, name: str) -> tuple[float, float]:
    bounds = model.family.request.fields()[name].bounds(model.limits(services))
    assert bounds is not None, f"every family that makes images has a range of {name}"
    return bounds


async def _originals(
    services: Services, model: ServedModel, values: Mapping[str, Any], images: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of the image that is changed."""
    if "init_images" not in images:
        return {}
    sent, max_mb = dict(images), services.settings.max_upload_mb
    listed = sent["init_images"]
    if listed is not None and (not isinstance(listed, list) or len(listed) > 1):
        raise InvalidInput(f"init_images must be a list of one image; got {shown(listed)}.", param="init_images")
    init = await take_image(sent, ["init_images"], max_mb=max_mb) if listed != [] else None
    if init is None:
        raise NotFound("Init image not found: init_images is missing.", param="init_images")
    mask = await take_image(sent, ["mask"], max_mb=max_mb)
    size = values["width"], values["height"]
    about = model.family.request.fields().get("init_image")
    most = resolved(about.max_pixels, model.limits(services)) if about is not None else 0
    found: dict[str, Any] = {"init_image": init[1], "strength": values["denoising_strength"]}
    if about is None:
        return found  # which the model does not have, and so refuses
    crops = values["resize_mode"] == _CROP and min(size) > 0
    if crops:
        found["init_image"] = await asyncio.to_thread(cropped_to, init[1], size, max_pixels=most, param="init_images")
    if mask is not None:
        inverted = values["inpainting_mask_invert"] == 1
        data = await asyncio.to_thread(mask_of, mask[1], inverted=inverted, max_pixels=most)
        if crops:
            data = await asyncio.to_thread(cropped_to, data, size, max_pixels=most, param="mask")
        found["mask"] = data
    return found


def _second_pass(services: Services, taken: Taken, values: Mapping[str, Any]) -> SecondPass:
    """See `SecondPass`.

    :raises InvalidInput, TooLarge: there is no such upscaler, or the model cannot do it.
    """
    request, model = cast(ImageRequest, taken.request), taken.model
    upscaler = chosen_upscaler(services, values["hr_upscaler"], param="hr_upscaler", others=LATENT_MODES)
    upscaler = LANCZOS if upscaler == NONE else upscaler  # as in the web UI
    own = values["width"], values["height"]
    width, height = values["hr_resize_x"], values["hr_resize_y"]
    sizes = by_scale(values["hr_scale"])
    if width or height:
        wanted = width or own[0] * height // own[1], height or own[1] * width // own[0]
        sizes = to_size((max(1, wanted[0]), max(1, wanted[1])), crop=True)
    (scaled, size), strength = sizes(own), values["denoising_strength"]
    check_size(services, own, scaled, "hr_scale")
    if strength == 0:
        return SecondPass(upscaler=upscaler, sizes=sizes, size=size, request=None)
    if "init_image" not in model.family.request.image_fields():
        raise InvalidInput(
            f"denoising_strength must be 0 with enable_hr: the model {model.name} cannot change images; got "
            f"{strength:g}.",
            param="denoising_strength",
        )
    changed = {
        "width": size[0],
        "height": size[1],
        "steps": values["hr_second_pass_steps"] or request.steps,
        "strength": strength,
        "num_images": 1,
        "seed": request.seed,
    }
    images = {name: image.data for name, image in taken.images.items()}
    with by_their_names({"steps": "hr_second_pass_steps"}):
        try:
            second = model.parse(services, {**taken.values, **images, **changed})
        except InvalidInput as error:
            if error.param not in _SIDES:
                raise
            raise type(error)(f"hr_scale or hr_resize: {error.message}", param="hr_scale") from None
    return SecondPass(upscaler=upscaler, sizes=sizes, size=size, request=cast(ImageRequest, second))
