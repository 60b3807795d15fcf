"""Errors of our operations by the names of AUTOMATIC1111's fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from darkroom.errors import InvalidInput, NotFound

CHECKPOINT = "sd_model_checkpoint"
PROCESSING = {
    "guidance_scale": "cfg_scale",
    "num_images": "batch_size",
    "strength": "denoising_strength",
    "init_image": "init_images",
    "scheduler": "sampler_name",
}
"""Names of fields of txt2img and img2img, by ours."""


@contextmanager
def by_their_names(names: Mapping[str, str] = PROCESSING) -> Iterator[None]:
    """Errors that the body raises name AUTOMATIC1111's fields.

    :param names: theirs by ours.
    """
    try:
        yield
    except (InvalidInput, NotFound) as error:
        if error.param is None or error.param not in names or error.carried:
            raise
        words = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names))
        message = words.sub(lambda found: names[found[0]], error.message)
        raise type(error)(message, param=names[error.param]) from None
