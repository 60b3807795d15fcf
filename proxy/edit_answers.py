"""What answers of the editing endpoints look like, for the documentation; see `proxy.answers`."""

from __future__ import annotations

from pydantic import Field, RootModel

from proxy.answers import Answer, Generated


class Edited(Generated):
    """Changed images."""

    gpu_id: int | None = Field(description="The first GPU of the service; null where there is none.")


class EditedInMode(Edited):
    """Images that were changed in one of the modes."""

    prompt: str = Field(description="The prompt that the model got, made of the mode and the request's own.")
    mode: int


class EditModeInfo(Answer):
    """A mode of editing."""

    mode: int = Field(ge=1, le=16)
    name: str
    description: str
    requires_multiple_images: bool
    requires_controlnet: bool
    requires_text_params: bool
    min_images: int
    max_images: int


class EditModeList(RootModel[list[EditModeInfo]]):
    """All modes, in the order of their numbers."""
