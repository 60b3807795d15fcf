"""The modes of editing: `GET /edit-modes` and `GET /edit-mode/{mode}` of contract A. They need no model."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from darkroom.edit_modes.modes import MODE_RANGE, MODES, edit_mode
from darkroom.errors import InvalidInput
from proxy.documented import answers
from proxy.edit_answers import EditModeInfo, EditModeList

router = APIRouter(tags=["editing"])

_SCHEMA: dict[str, Any] = {"type": "integer", "minimum": MODE_RANGE[0], "maximum": MODE_RANGE[1]}


@router.get("/edit-modes", summary="The modes of editing", **answers(EditModeList))
async def edit_modes() -> list[dict[str, Any]]:
    """All sixteen, in the order of their numbers."""
    return [mode.to_json() for mode in MODES.values()]


@router.get("/edit-mode/{mode}", summary="A mode of editing", **answers(EditModeInfo, raises=(InvalidInput,)))
async def one_edit_mode(mode: Annotated[str, Path(json_schema_extra=_SCHEMA)]) -> dict[str, Any]:
    """What it needs. 422 for a number that is not from 1 to 16."""
    return edit_mode(mode).to_json()
