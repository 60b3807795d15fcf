"""The fields of AUTOMATIC1111's requests: types, defaults, and those that do nothing here.

Names and defaults are those of stable-diffusion-webui 1.10 (modules/api/models.py, modules/processing.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from darkroom.request.edge import Number, Text, Whole, optional
from darkroom.request.fields import Bounds, between
from proxy.ignored import ignored
from proxy.validation import validated

MOST_IMAGES = 100
"""Of one request: n_iter x batch_size."""
LARGEST_SCALE = 8.0
"""Output pixels per input pixel of an upscaler."""
_SIDES = (0, 1 << 16)


class Processing(BaseModel):
    """The fields that txt2img and img2img share."""

    prompt: Text | None = optional("What to show, in the notation of web UIs, with `<lora:name:0.8>`.", "")
    negative_prompt: Text | None = optional("What not to show.", "")
    seed: Whole | None = optional("Of the first image; image k has seed + k. -1 means any.", -1)
    sampler_name: Text | None = optional("A name of `GET /sdapi/v1/samplers`. By default `sampler_index`.")
    sampler_index: Text | None = optional("An older name of `sampler_name`.", "Euler")
    scheduler: Text | None = optional("A name of `GET /sdapi/v1/schedulers`.", "Automatic")
    batch_size: Whole | None = optional("Images that are made at once.", 1)
    n_iter: Whole | None = optional("How many batches are made, one after the other.", 1)
    steps: Whole | None = optional("Denoising steps; by default 50, or the most that this service allows.")
    cfg_scale: Number | None = optional("Classifier-free guidance.", 7.0)
    width: Whole | None = optional("In pixels.", 512)
    height: Whole | None = optional("In pixels.", 512)
    override_settings: dict[str, Any] | None = optional("`sd_model_checkpoint` chooses the model of this request.")
    override_settings_restore_afterwards: bool | None = optional(
        "false: `override_settings` become options of the caller.", True
    )
    script_name: Text | None = optional("There are no scripts here: another name than an empty one is refused.")
    alwayson_scripts: dict[str, Any] | None = optional('`{"controlnet": {"args": [unit]}}` with at most one unit.')
    send_images: bool | None = optional("false: `images` of the answer is empty.", True)


class Txt2img(Processing):
    """The fields of txt2img."""

    enable_hr: bool | None = optional("Whether the images are enlarged, and changed at the new size.", False)
    denoising_strength: Number | None = optional("Of the change after enlarging; 0: only enlarge.", 0.75)
    hr_scale: Number | None = optional("By how much the images are enlarged.", 2.0)
    hr_upscaler: Text | None = optional("A name of `GET /sdapi/v1/upscalers`, or of `latent-upscale-modes`.", "Latent")
    hr_second_pass_steps: Whole | None = optional("Steps of the change; 0: as many as `steps`.", 0)
    hr_resize_x: Whole | None = optional("Width after enlarging; 0: by `hr_scale` or by the proportions.", 0)
    hr_resize_y: Whole | None = optional("Height after enlarging; 0: by `hr_scale` or by the proportions.", 0)


class Img2img(Processing):
    """The fields of img2img, without its images."""

    denoising_strength: Number | None = optional("How much is changed: the share of the steps that are done.", 0.75)
    resize_mode: Whole | None = optional("0: the image is stretched; 1: it is cropped.", 0)
    inpainting_mask_invert: Whole | None = optional("0: white is painted again; 1: black.", 0)
    include_init_images: bool | None = optional("Whether `parameters` of the answer repeat the images.", False)


class Extras(BaseModel):
    """The fields of extra-single-image and extra-batch-images, without the images."""

    resize_mode: Whole | None = optional("0: by `upscaling_resize`; 1: to `upscaling_resize_w` x `_h`.", 0)
    upscaling_resize: Number | None = optional("By how much; more than 0.", 2.0)
    upscaling_resize_w: Whole | None = optional("Width in pixels.", 512)
    upscaling_resize_h: Whole | None = optional("Height in pixels.", 512)
    upscaling_crop: bool | None = optional("Whether the image is cropped to the size of `resize_mode` 1.", True)
    upscaler_1: Text | None = optional("A name of `GET /sdapi/v1/upscalers`. None leaves the image as it is.", "None")
    upscaler_2: Text | None = optional("A second one, whose result is laid over the first.", "None")
    extras_upscaler_2_visibility: Number | None = optional("How much of the second result is seen.", 0.0)


RANGES: dict[str, Bounds] = {
    "n_iter": (1, MOST_IMAGES),
    "hr_scale": (1.0, LARGEST_SCALE),
    "hr_resize_x": _SIDES,
    "hr_resize_y": _SIDES,
    "denoising_strength": (0.0, 1.0),
    "resize_mode": (0, 1),
    "inpainting_mask_invert": (0, 1),
    "upscaling_resize": (0.01, LARGEST_SCALE),
    "upscaling_resize_w": (1, _SIDES[1]),
    "upscaling_resize_h": (1, _SIDES[1]),
    "extras_upscaler_2_visibility": (0.0, 1.0),
}
"""Of numbers that no model checks."""

_ANY = object()
_SAME = (None, "", "Use same sampler", "Use same scheduler", "Use same checkpoint")
NO_EFFECT: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            *("subseed", "script_args", "do_not_save_samples", "do_not_save_grid", "force_task_id", "comments"),
            *("refiner_switch_at", "eta", "mask_blur", "mask_blur_x", "mask_blur_y", "mask_round", "image_cfg_scale"),
            *("inpaint_full_res_padding", "upscale_first", "codeformer_weight", "ddim_discretize", "s_tmax"),
        ),
        (_ANY,),
    ),
    **dict.fromkeys(("restore_faces", "tiling", "save_images", "inpaint_full_res", "disable_extra_networks"), (False,)),
    **dict.fromkeys(("hr_sampler_name", "hr_scheduler", "hr_checkpoint_name"), _SAME),
    **dict.fromkeys(("hr_prompt", "hr_negative_prompt", "refiner_checkpoint", "firstpass_image", "infotext"), ("",)),
    **dict.fromkeys(("subseed_strength", "s_churn", "s_tmin", "s_min_uncond"), (0,)),
    **dict.fromkeys(("gfpgan_visibility", "codeformer_visibility", "firstphase_width", "firstphase_height"), (0,)),
    **dict.fromkeys(("seed_resize_from_h", "seed_resize_from_w"), (-1, 0)),
    "styles": ([],),
    "s_noise": (1,),
    "initial_noise_multiplier": (1,),
    "inpainting_fill": (1,),
    "latent_mask": (),
    "show_extras_results": (True,),
}
"""Fields that do nothing here, and the values with which they would do nothing there. null is always one."""


def values_of(fields: Mapping[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """Check the types of a request, and the ranges of RANGES, and fill in the defaults.

    :param fields: as they were sent; null counts as absent.
    :raises InvalidInput, RequestValidationError: names the field.
    """
    read = validated(fields, kind, RANGES).model_dump()
    for name, (low, high) in RANGES.items():
        value = read.get(name)
        if value is not None and not low <= value <= high:
            raise between(name, low, high, value)
    return {name: _default_of(kind, name) if value is None else value for name, value in read.items()}


def _default_of(kind: type[BaseModel], name: str) -> Any:
    extra = kind.model_fields[name].json_schema_extra
    return extra.get("default") if isinstance(extra, dict) else None


def without_effect(
    fields: Mapping[str, Any], kind: type[BaseModel], images: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """A warning for each field that was sent and does nothing here, though it was meant to do something.

    :param images: fields that hold images.
    """
    return ignored([name for name, value in fields.items() if not _silent(name, value)], {*kind.model_fields, *images})


def _silent(name: str, value: Any) -> bool:
    allowed = NO_EFFECT.get(name)
    return allowed is not None and (value is None or _ANY in allowed or value in allowed)
