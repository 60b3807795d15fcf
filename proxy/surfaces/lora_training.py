"""Training in sessions (contract E): begin one, and see how far it is."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from darkroom.errors import NoImages, NotFound
from proxy import answers as answer
from proxy.documented import BODY, SUBMIT, answers
from proxy.http.json_body import read_json
from proxy.ignored import ignored, note
from proxy.operations import OPERATIONS
from proxy.operations.train import LOSSES, Train, key_of, last_loss
from proxy.policy.judging import merged
from proxy.services import Use
from proxy.sessions.fields import SessionFields
from proxy.sessions.training import training_of
from proxy.surfaces.lora_sessions import store_of
from proxy.surfaces.tasks import client_of, digest
from proxy.tasks.tasks import UseTasks
from proxy.validation import validated

router = APIRouter(tags=["LoRA sessions"])

_OPERATION = OPERATIONS[Train.name]


@router.post(
    "/train_lora",
    summary="Train a LoRA on the images of a session",
    **answers(answer.StartedTraining, raises=(*BODY, *SUBMIT, NoImages)),
)
async def train_lora(request: Request, services: Use, tasks: UseTasks) -> dict[str, Any]:
    """The training is a durable task: it goes on after any crash. When it is done, its LoRA is the newest file of the
    session. 409 while a training of the session runs or waits, and where there is no checkpoint to train on."""
    tasks.check(1, None, _OPERATION.lane)
    fields = await read_json(request, images=(), max_mb=1)
    warnings = note(request, ignored(fields, _OPERATION.names))
    work = await _OPERATION.accept(services, fields)
    ((task, _),) = await tasks.submit(
        _OPERATION.name, [work], client=client_of(request), key=None, digest=digest(fields)
    )
    return {"status": "started", "task_id": task.id, **merged(warnings, work.warnings)}


@router.post(
    "/train_status",
    summary="How far the training of a session is",
    **answers(answer.TrainingStatus, raises=(*BODY, NotFound)),
)
async def train_status(request: Request, services: Use, tasks: UseTasks) -> dict[str, Any]:
    """Of the newest training of the session."""
    fields = await read_json(request, images=(), max_mb=1)
    warnings = note(request, ignored(fields, SessionFields.model_fields))
    session = validated(fields, SessionFields).session_id
    await asyncio.to_thread(store_of(services).require, session)
    task = (await tasks.newest([key_of(session)])).get(key_of(session))
    said = training_of(task)
    if task is not None and task.state in ("processing", "paused"):
        workspace = await asyncio.to_thread(tasks.files.workspace, task.id)
        said["loss"] = await asyncio.to_thread(last_loss, workspace / LOSSES)
    return {**said, **warnings}
