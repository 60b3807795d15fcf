"""The answers of txt2img and img2img."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from darkroom import __version__
from proxy.sdapi.body import as_json
from proxy.sdapi.making import Made
from proxy.sdapi.plans import Plan
from proxy.sdapi.samplers import sampler_of
from proxy.sdapi.works import Work

_ORIGINALS = ("init_images", "mask")


def encoded(plan: Plan, made: Made, work: Work, sent: Mapping[str, Any], warnings: Mapping[str, Any]) -> bytes:
    """The answer in JSON. It encodes a lot of base64: call it in a thread.

    :param sent: the fields of the request as they came.
    :param warnings: what to add.
    """
    images = [image.data for image in made.images]
    images += [made.control_map] if made.control_map is not None and images else []
    values = plan.values
    repeated = as_json({**sent, **values})
    if not values.get("include_init_images"):
        repeated |= {name: None for name in _ORIGINALS if name in sent}
    return json.dumps(
        {
            "images": [base64.b64encode(data).decode() for data in images] if values["send_images"] else [],
            "parameters": repeated,
            "info": json.dumps(info(plan, made, work)),
            **warnings,
        }
    ).encode()


def info(plan: Plan, made: Made, work: Work) -> dict[str, Any]:
    """What the web UI says of the images; lists have an entry for each finished one."""
    values, request = plan.values, plan.request
    first = made.images[0].details if made.images else {}
    count = len(made.images)
    sampler, schedule = sampler_of(str(first.get("scheduler") or request.scheduler or ""))
    return {
        "prompt": values["prompt"],
        "all_prompts": [values["prompt"]] * count,
        "negative_prompt": values["negative_prompt"],
        "all_negative_prompts": [values["negative_prompt"]] * count,
        "seed": request.seed,
        "all_seeds": [image.details["seed"] for image in made.images],
        "subseed": -1,
        "all_subseeds": [-1] * count,
        "subseed_strength": 0,
        "width": first.get("width", values["width"]),
        "height": first.get("height", values["height"]),
        "sampler_name": sampler,
        "cfg_scale": first.get("guidance_scale", values["cfg_scale"]),
        "steps": first.get("steps", values["steps"]),
        "batch_size": request.num_images,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": first.get("model", plan.model.name),
        "sd_model_hash": first.get("model_hash", ""),
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": first.get("strength"),
        "extra_generation_params": {"Schedule type": schedule, **_second_pass(plan)},
        "index_of_first_image": 0,
        "infotexts": [image.infotext for image in made.images],
        "styles": [],
        "job_timestamp": work.created.strftime("%Y%m%d%H%M%S"),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": f"Darkroom {__version__}",
        "interrupted": work.interrupted.is_set(),
    }


def _second_pass(plan: Plan) -> dict[str, Any]:
    return plan.second.pairs((plan.values["width"], plan.values["height"])) if plan.second else {}
