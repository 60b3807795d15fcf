"""The field that names a session, which several endpoints and an operation take."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field

from darkroom.request.edge import Text


def number_as_text(value: object) -> object:
    """Turn an integer into text: the ids of sessions are texts that may be sent as numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


SessionId = Annotated[
    Text,
    BeforeValidator(number_as_text),
    Field(min_length=1, description="As `/create_session` gave it; a number or text.", examples=["1"]),
]


class SessionFields(BaseModel):
    """The fields that name a session."""

    session_id: SessionId
