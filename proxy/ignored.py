"""Unknown fields. They are not an error: the answer has a warning for each, with the name that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

IGNORED = "X-Ignored-Fields"
_STATE = "ignored_fields"
_MOST = 20
"""Maximum number of fields that are named; a body may have thousands."""
_LONGEST = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-\[\]]")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_MEANT = {
    "num_images": ("n_iter", "batch_size", "batch_count", "n", "num_outputs", "num_samples", "samples", "count"),
    "true_guidance_scale": ("cfg_scale", "cfg", "cfg_value", "true_cfg", "guidance"),
    "guidance_scale": ("cfg_scale", "cfg", "guidance", "scale", "true_guidance_scale", "cfg_value"),
    "scheduler": ("sampler_name", "sampler", "sampler_index", "sample_method", "sampling_method"),
    "steps": ("num_steps", "sampling_steps", "step_count", "inference_steps", "sample_steps"),
    "seed": ("random_seed", "noise_seed", "manual_seed"),
    "negative_prompt": ("negative", "neg_prompt", "uc"),
    "prompt": ("text", "description", "caption", "inputs"),
    "size": ("resolution", "image_size", "dimensions"),
    "resolution": ("size", "image_size", "dimensions"),
    "format": ("output_format", "image_format", "response_format"),
    "quality": ("output_compression", "output_quality", "jpeg_quality"),
    "control_image": ("controlnet_image", "input_image"),
    "init_image": ("initial_image", "source_image", "img2img_image"),
    "mask": ("inpaint_mask", "image_mask"),
    "strength": ("denoise", "denoising", "image_strength", "prompt_strength"),
    "control_type": ("controlnet", "module", "preprocessor", "controlnet_module"),
    "controlnet_conditioning_scale": ("control_weight", "controlnet_scale", "conditioning_scale", "weight"),
    "control_guidance_start": ("guidance_start",),
    "control_guidance_end": ("guidance_end",),
    "low_threshold": ("threshold_a",),
    "high_threshold": ("threshold_b",),
    "scale": ("upscaling_resize", "factor", "outscale", "upscale", "upscale_factor"),
    "model": ("upscaler", "upscaler_1", "model_name"),
    "tile": ("tile_size",),
    "file": ("image", "img", "photo", "picture", "input"),
    "files": ("images", "file", "image"),
    "enlarge": ("hr_scale", "upscale_by"),
    "enlarge_model": ("hr_upscaler",),
    "num_inference_steps": ("steps", "num_steps"),
    "num_images_per_prompt": ("num_images", "n", "n_iter", "batch_size"),
}
"""The names that other services, web UIs and libraries use, by our field."""


def ignored(given: Iterable[str], known: Collection[str], prefix: str = "") -> list[dict[str, Any]]:
    """Return a warning for each unknown name: `field`, `message` and `suggestion` (or None).

    :param known: every name that the endpoint accepts.
    :param prefix: put before the names, in a list of requests.
    """
    names = sorted({name for name in given if name not in known})
    warnings = [_warning(prefix + _safe(name), meant(name, known)) for name in names[:_MOST]]
    if len(names) > _MOST:
        message = f"{len(names) - _MOST:,} more fields are not known here and were ignored."
        warnings.append({"field": "...", "message": message, "suggestion": None})
    return warnings


def _warning(field: str, suggestion: str | None) -> dict[str, Any]:
    hint = "." if suggestion is None else f"; did you mean {suggestion}?"
    return {"field": field, "message": f"{field} is not known here and was ignored{hint}", "suggestion": suggestion}


def meant(name: str, known: Collection[str]) -> str | None:
    """Return the known name that was probably meant: `num_inference_steps` by "numInferenceSteps"."""
    plain = re.sub(r"[^a-z0-9]+", "_", _HUMP.sub("_", name[:_LONGEST]).lower()).strip("_")
    if plain in known:
        return plain
    by_alias = next((field for field, others in _MEANT.items() if plain in others and field in known), None)
    close = get_close_matches(plain, sorted(known), 1, 0.75)
    return by_alias or (close[0] if close else None)


def _safe(name: str) -> str:
    """Return the name with the characters that a header may have."""
    return _UNSAFE.sub("?", name[:_LONGEST]) + ("..." if len(name) > _LONGEST else "")


def note(request: Request, warnings: list[dict[str, Any]]) -> dict[str, Any]:
    """Name the fields in the answer's header, whatever the status of the answer.

    :returns: the fields to add to a JSON answer: none, or `warnings`.
    """
    setattr(request.state, _STATE, [*getattr(request.state, _STATE, []), *warnings])
    return {"warnings": warnings} if warnings else {}


class IgnoredFields:
    """Middleware: sets the header."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def with_header(message: Message) -> None:
            warnings = state.get(_STATE)
            if message["type"] == "http.response.start" and warnings:
                names = list(dict.fromkeys(one["field"] for one in warnings))
                shortened = names if len(names) <= _MOST + 1 else [*names[:_MOST], "..."]
                MutableHeaders(scope=message)[IGNORED] = ", ".join(shortened)
            await send(message)

        await self.app(scope, receive, with_header)
