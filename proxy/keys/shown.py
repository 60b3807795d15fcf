"""Keys as JSON, without their secrets."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from proxy.keys.models import Key


def shown(key: Key) -> dict[str, Any]:
    """A key as an answer has it."""
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        **key.limits.to_json(),
        "created_at": moment(key.created_at),
        "revoked_at": None if key.revoked_at is None else moment(key.revoked_at),
    }


def moment(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
