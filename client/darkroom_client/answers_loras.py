"""The answers about LoRA files and training sessions, read by plain functions into plain data."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import httpx

from .answers import bad_answer, member, parsed
from .models_loras import TRAINING_STATES, LoraInfo, LoraRead, SessionInfo, SessionLora, TrainingInfo


def read_loras(response: httpx.Response) -> list[LoraInfo]:
    """The answer of a successful `GET /loras`."""
    return [_lora(entry) for entry in member(parsed(response.content), "loras", list)]


def read_lora(response: httpx.Response) -> LoraInfo:
    """The answer of a successful request for one LoRA file, or of its upload."""
    return _lora(parsed(response.content))


def _lora(body: Any) -> LoraInfo:
    models = member(body, "models", dict) if isinstance(body, dict) and "models" in body else {}
    refused = member(body, "refused", dict) if isinstance(body, dict) and "refused" in body else {}
    return LoraInfo(
        name=member(body, "name", str),
        digest=member(body, "digest", str),
        size=member(body, "size", int),
        modified=member(body, "modified", str),
        models={model: _read(said) for model, said in models.items()},
        refused={model: str(reason) for model, reason in refused.items()},
        raw=body,
    )


def _read(body: Any) -> LoraRead:
    return LoraRead(
        applied=member(body, "applied", int),
        total=member(body, "total", int),
        rank=member(body, "rank", int),
        trigger_words=tuple(map(str, member(body, "trigger_words", list))),
        warnings=tuple(map(str, member(body, "warnings", list))),
        raw=body,
    )


def read_created(response: httpx.Response) -> str:
    """The answer of a successful `GET /create_session`: the id of the session, as text."""
    return str(member(parsed(response.content), "session_id", int))


def read_sessions(response: httpx.Response) -> list[SessionInfo]:
    """The answer of a successful `GET /list_sessions`."""
    return [_session(entry) for entry in member(parsed(response.content), "sessions", list)]


def _session(body: Any) -> SessionInfo:
    return SessionInfo(
        id=member(body, "session_id", str),
        latest_lora=_text(body, "latest_lora"),
        image_groups=member(body, "image_groups", int),
        training=_training(member(body, "training", dict)),
        raw=body,
    )


def read_training(response: httpx.Response) -> TrainingInfo:
    """The answer of a successful `POST /train_status`."""
    return _training(parsed(response.content))


def _training(body: Any) -> TrainingInfo:
    state = member(body, "status", str)
    if state not in TRAINING_STATES:
        raise bad_answer(f"the state {state!r} of a training is unknown")
    loss = body.get("loss")
    return TrainingInfo(
        state=state,
        progress=member(body, "progress", int),
        step=_whole(body, "step"),
        total_steps=_whole(body, "total_steps"),
        loss=float(loss) if isinstance(loss, (int, float)) else None,
        paused=body.get("paused") is True,
        task_id=_text(body, "task_id"),
        lora=_text(body, "lora"),
        message=_text(body, "message"),
        raw=body,
    )


def read_session_lora(response: httpx.Response) -> SessionLora:
    """The answer of a successful `POST /get_lora`."""
    body = parsed(response.content)
    try:
        data = base64.b64decode(member(body, "lora_base64", str), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_answer(f"a LoRA's base64 is damaged ({error})") from None
    return SessionLora(name=member(body, "lora_filename", str), data=data)


def read_text(response: httpx.Response, name: str) -> str:
    """One text of a successful answer."""
    return str(member(parsed(response.content), name, str))


def _text(body: Any, name: str) -> str | None:
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, str) else None


def _whole(body: Any, name: str) -> int:
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, int) else 0
