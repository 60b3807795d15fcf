"""The fields of tasks that make images, beside those of their model."""

from __future__ import annotations

from functools import cache

from pydantic import BaseModel, create_model

from darkroom.images import MEDIA_TYPES
from darkroom.request.edge import optional
from proxy.operations.enlarging import ENLARGE_NAMES, enlarge_fields
from proxy.operations.images import GeneratedImages
from proxy.tasks.models import Output

KEEP_CONTROL_MAP = "keep_control_map"
TASK_NAMES = ENLARGE_NAMES | {KEEP_CONTROL_MAP}
_NAME = "control_map.png"


@cache
def task_fields() -> type[BaseModel]:
    """The fields with their types."""
    help = "Whether the map that the ControlNet reads is a result as well, the last one. Needs a control image."
    return create_model("TaskFields", __base__=enlarge_fields(), keep_control_map=(bool | None, optional(help, False)))


def control_map_output(made: GeneratedImages) -> list[Output]:
    """Return the control map as a result of a task; nothing where there was no control image."""
    if made.control_map is None:
        return []
    details = {"control_map": True}
    return [Output(data=made.control_map, media_type=MEDIA_TYPES["png"], details=details, name=_NAME)]
