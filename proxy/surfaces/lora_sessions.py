"""Training sessions (contract E): their images, their LoRA files, their list."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from darkroom.captioned_images import MAX_PIXELS
from darkroom.diffusion.lora.tensors import open_tensors
from darkroom.errors import Conflict, InvalidInput, ModerationBlocked, NotFound, NotReady
from darkroom.images import decode, opaque
from darkroom.png import encode_png
from darkroom.request.edge import Text, Whole
from proxy import answers as answer
from proxy.audit.notes import note_request
from proxy.documented import BODY, IMAGE, answers
from proxy.http.json_body import read_json
from proxy.ignored import ignored, note
from proxy.operations.train import Train, key_of
from proxy.policy.judging import PROMPT, facts_of, judged
from proxy.services import Services, Use
from proxy.sessions.fields import SessionFields
from proxy.sessions.store import LORA_NAME, SessionStore
from proxy.sessions.training import training_of
from proxy.tasks.tasks import UseTasks
from proxy.uploads import take_image
from proxy.validation import validated

router = APIRouter(tags=["LoRA sessions"])

IMAGE_FIELD = "image_base64"
LORA_FIELD = "lora_base64"
_FIRST, _LAST = 1, 999_999_999
ITERATIONS = {"iteration": (_FIRST, _LAST)}

Fields = TypeVar("Fields", bound=BaseModel)


class ImageFields(SessionFields):
    """The fields of an image to train on."""

    prompt: Text = Field(description="What the image shows.", min_length=1, examples=["a red apple on a table"])


class LoraDownload(SessionFields):
    """A LoRA file of a session."""

    iteration: Annotated[Whole, Field(ge=_FIRST, le=_LAST)] | None = Field(
        None, description="The k of `lora_<k>.safetensors`; absent: the newest file."
    )


class LoraUpload(SessionFields):
    """A LoRA file that was made elsewhere."""

    filename: Text | None = Field(
        None,
        description="Absent: `lora_<k>.safetensors` with the next number.",
        json_schema_extra={"pattern": f"^{LORA_NAME}$"},
    )


@router.get("/create_session", summary="Make a session", **answers(answer.CreatedSession))
async def create_session(services: Use) -> dict[str, Any]:
    """Each call makes a new session."""
    return {"session_id": await asyncio.to_thread(store_of(services).create)}


@router.post(
    "/post_session_image",
    summary="Add an image to train on",
    **answers(answer.Success, raises=(*IMAGE, NotFound, ModerationBlocked)),
)
async def post_session_image(request: Request, services: Use) -> dict[str, Any]:
    """The image is stored upright as PNG; transparent pixels become white."""
    fields, data, warnings = await _with_file(request, services, ImageFields, IMAGE_FIELD)
    await note_request(Train.name, "", {PROMPT: fields.prompt}, [data])
    # A training that was accepted already reads captions that come later, so they are judged here as well.
    await judged(services, facts_of(Train.name, "", prompts=(fields.prompt,)))

    def add() -> None:
        store = store_of(services)
        store.require(fields.session_id)
        picture = decode(data, max_pixels=MAX_PIXELS, param=IMAGE_FIELD)
        store.add_image(fields.session_id, encode_png(opaque(picture)), fields.prompt)

    await asyncio.to_thread(add)
    return {"status": "success", **warnings}


@router.post(
    "/upload_lora",
    summary="Add a LoRA file",
    **answers(answer.UploadedLora, raises=(*BODY, NotFound, Conflict)),
)
async def upload_lora(request: Request, services: Use) -> dict[str, Any]:
    """Accepts complete safetensors files only. Sending the same file again is no error."""
    fields, data, warnings = await _with_file(request, services, LoraUpload, LORA_FIELD)

    def add() -> str:
        store = store_of(services)
        store.require(fields.session_id)
        _check(data)
        return store.add_lora(fields.session_id, data, fields.filename)

    return {"status": "success", "lora_filename": await asyncio.to_thread(add), **warnings}


@router.post("/get_lora", summary="Download a LoRA file", **answers(answer.SessionLora, raises=(*BODY, NotFound)))
async def get_lora(request: Request, services: Use) -> dict[str, Any]:
    """404 "Requested LoRA not found" where the session has none, or none of that number."""
    fields, warnings = _checked(request, await read_json(request, images=(), max_mb=1), LoraDownload)

    def read() -> tuple[str, str]:
        name, data = store_of(services).read_lora(fields.session_id, fields.iteration)
        return name, base64.b64encode(data).decode()

    name, text = await asyncio.to_thread(read)
    return {"session_id": fields.session_id, "lora_filename": name, "lora_base64": text, **warnings}


@router.get("/list_sessions", summary="List sessions", **answers(answer.SessionList, raises=(NotReady,)))
async def list_sessions(services: Use, tasks: UseTasks) -> dict[str, Any]:
    """`image_groups` counts the folders with images to train on; `training` is as `/train_status` has it."""
    found = await asyncio.to_thread(store_of(services).summaries)
    newest = await tasks.newest([key_of(one.session_id) for one in found])
    return {"sessions": [{**asdict(one), "training": training_of(newest.get(key_of(one.session_id)))} for one in found]}


@router.post(
    "/delete_session",
    summary="Delete a session",
    **answers(answer.DeletedSession, raises=(*BODY, NotFound, Conflict, NotReady)),
)
async def delete_session(request: Request, services: Use, tasks: UseTasks) -> dict[str, Any]:
    """Its images and LoRA files are deleted with it, and the files of its trainings. One that runs is stopped."""
    fields, warnings = _checked(request, await read_json(request, images=(), max_mb=1), SessionFields)
    store = store_of(services)
    await asyncio.to_thread(store.require_change, fields.session_id)
    await tasks.remove_all(key_of(fields.session_id))
    await asyncio.to_thread(store.delete, fields.session_id)
    return {"status": "deleted", "session_id": fields.session_id, **warnings}


def store_of(services: Services) -> SessionStore:
    """Return the sessions of this installation."""
    return SessionStore(services.settings.session_dir)


def _check(data: bytes) -> None:
    """:raises InvalidInput: it is no whole safetensors file with at least one tensor."""
    try:
        tensors = open_tensors(data).tensors
    except InvalidInput as error:
        raise InvalidInput(error.message, param=LORA_FIELD) from None
    if not tensors:
        raise InvalidInput(f"{LORA_FIELD} is a safetensors file without tensors.", param=LORA_FIELD)


async def _with_file(
    request: Request, services: Services, kind: type[Fields], name: str
) -> tuple[Fields, bytes, dict[str, Any]]:
    """Read a body with a file in base64; return its fields, the file, and the warnings for unknown fields.

    :param name: of the field that holds the file.
    :raises InvalidInput: the file is missing.
    """
    max_mb = services.settings.max_upload_mb
    body = await read_json(request, images=(name,), max_mb=max_mb)
    found = await take_image(body, (name,), max_mb=max_mb)
    fields, warnings = _checked(request, body, kind)
    if found is None:
        raise InvalidInput(f"{name} is missing.", param=name)
    return fields, found[1], warnings


def _checked(request: Request, body: dict[str, Any], kind: type[Fields]) -> tuple[Fields, dict[str, Any]]:
    """Validate the fields of a body; return them with the warnings for unknown fields."""
    warnings = note(request, ignored(body, kind.model_fields))
    return validated(body, kind, ITERATIONS), warnings
