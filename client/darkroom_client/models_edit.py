"""What there is to know of the modes of editing, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EditModeInfo:
    """A mode of editing. `raw` is the whole answer, with fields that this version does not know.

    :param mode: its number, which requests name.
    :param requires_controlnet: whether it needs a control image.
    :param requires_text_params: whether it needs text parameters.
    :param min_images, max_images: without the control image.
    """

    mode: int
    name: str
    description: str
    requires_controlnet: bool
    requires_text_params: bool
    min_images: int
    max_images: int
    raw: Mapping[str, Any]
