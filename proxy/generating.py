"""Text to image with SD 1.5, for `POST /generate` and durable tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from darkroom.pipelines.sd15.networks import PIPELINE
from darkroom.pipelines.sd15.request import GenerateRequest, ranges
from darkroom.pipelines.sd15.settings import Settings
from proxy import pictures
from proxy.generate_fields import PICTURE_FIELDS, GenerateFields, validated
from proxy.uploads import take_picture


@dataclass(frozen=True, kw_only=True)
class Job(pictures.Job):
    """A validated request.

    :param control_image: the reference picture's bytes; only its header has been looked at.
    """

    pipeline = PIPELINE
    request: GenerateRequest
    control_image: bytes | None

    def inputs(self) -> dict[str, Any]:
        inputs, control = super().inputs(), self.request.control
        if control is not None and self.control_image is not None:
            inputs |= {
                "control_type": control.kind,
                "control_preprocess": np.array([control.preprocess]),
                "control_image": np.frombuffer(self.control_image, np.uint8),
                "low_threshold": control.options.low_threshold,
                "high_threshold": control.options.high_threshold,
                "controlnet_conditioning_scale": control.conditioning_scale,
                "control_guidance_start": control.start,
                "control_guidance_end": control.end,
            }
        return inputs


async def take_fields(
    fields: dict[str, Any], limits: Settings, *, max_mb: float
) -> tuple[dict[str, Any], tuple[str, bytes] | None]:
    """The fields of a request by our names, ready for `GenerateRequest.parse`, and the reference picture with the name
    that it came under. It is taken out of `fields`.

    :raises InvalidInput, TooLarge, RequestValidationError: a field of a wrong type; a picture that is none.
    """
    picture = await take_picture(fields, PICTURE_FIELDS, max_mb=max_mb)
    named = validated(fields, GenerateFields, ranges(limits)).named()
    if picture is not None:
        named["control_image"] = True
    return named, picture
