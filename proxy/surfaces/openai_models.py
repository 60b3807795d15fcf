"""The models as OpenAI's API lists them: `GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from darkroom.errors import InvalidInput, NotFound
from darkroom.request.fields import shown
from proxy.documented import answers
from proxy.models import ServedModel
from proxy.openai.answers import OpenaiModel, OpenaiModels
from proxy.openai.names import OPERATIONS, chosen_model, listed
from proxy.services import Services, Use

router = APIRouter(tags=["OpenAI"], prefix="/v1")

_OWNER = "darkroom"


@router.get("/models", summary="Models, as OpenAI lists them", **answers(OpenaiModels))
async def models(services: Use) -> dict[str, Any]:
    """The models that make or edit images, and the names of MODEL_ALIASES. `GET /models` says more of them."""

    def all_of_them() -> list[dict[str, Any]]:
        return [_described(services, name, model) for name, model in listed(services).items()]

    return {"object": "list", "data": await asyncio.to_thread(all_of_them)}


@router.get("/models/{id:path}", summary="A model, as OpenAI lists it", **answers(OpenaiModel, raises=(NotFound,)))
async def model(id: str, services: Use) -> dict[str, Any]:
    """Takes every name that requests for images may have as their `model`. 404 for others."""

    def found() -> dict[str, Any]:
        try:
            return _described(services, id, chosen_model(services, OPERATIONS, id))
        except InvalidInput:  # a model that neither makes nor edits images
            raise NotFound(
                f"The model {shown(id)} does not exist; GET /v1/models lists those that there are.", param="model"
            ) from None

    return await asyncio.to_thread(found)


def _described(services: Services, name: str, model: ServedModel) -> dict[str, Any]:
    folder = services.settings.model_repository / model.name / "1"
    try:
        created = int(folder.stat().st_mtime)
    except OSError:  # the repository is on another machine
        created = 0
    return {"id": name, "object": "model", "created": created, "owned_by": _OWNER, "darkroom_model": model.name}
