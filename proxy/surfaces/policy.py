"""The content policy of the service, for admins: `GET /admin/policy`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from darkroom.errors import Forbidden
from proxy.answers import Answer
from proxy.callers import CALLER
from proxy.documented import answers
from proxy.policy.document import PolicyError
from proxy.services import Use
from proxy.surfaces.tasks import moment

router = APIRouter(tags=["admin"])


class PolicyState(Answer):
    """The policy that requests are judged by. Without one, only `enabled` is there."""

    enabled: bool
    version: str = Field("", description="As the file says.")
    digest: str = Field("", description="SHA-256 of the file and of the word files that it names.")
    loaded_at: str = Field("", description="When it was read.")
    words: dict[str, int] = Field({}, description="How many words the lists have.")
    rules: list[str] = Field([], description="The ids of the rules, in order.")
    problems: list[str] = Field([], description="Why the file as it is now is not used; empty where it is.")


@router.get("/admin/policy", summary="The content policy", **answers(PolicyState, raises=(Forbidden,)))
async def policy_state(services: Use) -> dict[str, Any]:
    """Which policy is in use, and what is wrong with the file as it is now. `enabled` is false without POLICY_FILE."""
    if CALLER.get().role != "admin":
        raise Forbidden("The content policy is shown to admins.")
    if services.policy is None:
        return {"enabled": False}
    try:
        used = await services.policy.current()
    except PolicyError as error:  # the service does not start with one: it was removed before it was read
        return {"enabled": True, "problems": [str(one) for one in error.problems]}
    error_now = services.policy.error
    return {
        "enabled": True,
        "version": used.version,
        "digest": used.digest,
        "loaded_at": moment(services.policy.loaded_at),
        "words": used.lists,
        "rules": [rule.id for rule in used.rules],
        "problems": [str(one) for one in error_now.problems] if error_now else [],
    }
