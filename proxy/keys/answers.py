"""Answers about keys, for `/openapi.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from proxy.answers import Answer, Warned


class KeyView(Answer):
    """A key. Its secret is kept nowhere."""

    id: str
    name: str
    role: Literal["user", "admin"]
    rate: str | None = Field(description="Requests in a time, such as 60/min; null is without a limit, as below.")
    images_per_day: int | None
    concurrent: int | None = Field(description="Requests and tasks that run and wait at a time.")
    priority: Literal["high", "normal", "low"] | None = Field(
        description="The highest priority of its tasks, and the one that they have if they ask for none."
    )
    created_at: str
    revoked_at: str | None


class UsedKey(KeyView):
    """A key and what it uses."""

    images_today: int = Field(description="Images that were accepted today (UTC), where they are limited.")
    running: int = Field(description="Tasks that run and wait, and direct requests where work is limited.")


class KeyList(Answer):
    """All keys, the revoked ones included."""

    keys: list[UsedKey]


class CreatedKey(KeyView, Warned):
    """A key was made."""

    key: str = Field(description="The secret, which cannot be shown again.")
