"""The keys of the service, for admins. See docs/keys.md."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from darkroom.errors import Conflict, Forbidden, InvalidInput, NotFound, NotReady
from darkroom.request.edge import Text, Whole, word
from proxy.callers import CALLER
from proxy.documented import BODY, answers
from proxy.http.json_body import read_json
from proxy.ignored import ignored, note
from proxy.keys import answers as answer
from proxy.keys import store as table
from proxy.keys.middleware import Keys
from proxy.keys.models import CONCURRENT_LIMITS, IMAGES_LIMITS, NAME, ROLES, Limits, NewKey, Rate
from proxy.keys.shown import shown
from proxy.tasks.models import PRIORITIES
from proxy.validation import validated

router = APIRouter(prefix="/admin", tags=["keys"])

EXAMPLE = {"name": "anna", "rate": "60/min", "images_per_day": 200, "concurrent": 4}
RANGES = {"images_per_day": IMAGES_LIMITS, "concurrent": CONCURRENT_LIMITS}


class KeyFields(BaseModel):
    """What a key is to be."""

    name: Text = Field(
        description="Whose it is; used once.", json_schema_extra={"pattern": f"^{NAME}$"}, examples=["anna"]
    )
    role: Annotated[Text, word("role", ROLES)] = Field(
        "user", description="An admin sees everything, and makes keys.", json_schema_extra={"enum": list(ROLES)}
    )
    rate: Text | None = Field(
        None,
        description="Requests in a time, such as 60/min; absent: any number.",
        json_schema_extra={"pattern": r"^\d{1,4}/(s|min|h|day)$"},
        examples=["60/min"],
    )
    images_per_day: Annotated[Whole, Field(ge=IMAGES_LIMITS[0], le=IMAGES_LIMITS[1])] | None = Field(
        None, description="Images in a day of UTC; absent: any number."
    )
    concurrent: Annotated[Whole, Field(ge=CONCURRENT_LIMITS[0], le=CONCURRENT_LIMITS[1])] | None = Field(
        None, description="Requests and tasks that run and wait at a time; absent: any number."
    )
    priority: Annotated[Text, word("priority", PRIORITIES)] | None = Field(
        None,
        description="The highest priority of its tasks, and the one that they have if they ask for none. Absent: they "
        "may ask for any.",
        json_schema_extra={"enum": [*PRIORITIES, None]},
    )

    def wanted(self) -> NewKey:
        """The key.

        :raises InvalidInput: a value is out of range.
        """
        limits = Limits(
            rate=None if self.rate is None else Rate.parse(self.rate),
            images_per_day=self.images_per_day,
            concurrent=self.concurrent,
            priority=self.priority,
        )
        return NewKey(name=self.name, role="admin" if self.role == "admin" else "user", limits=limits)


def of(request: Request) -> Keys:
    """The keys of the app, for `Depends`.

    :raises Forbidden: the caller is no admin with a key. The first key is made on the machine itself: whoever reaches a
        service without keys could else lock all others out.
    """
    caller = CALLER.get()
    if caller.key is None or caller.role != "admin":
        raise Forbidden("Keys are for admins; `darkroom keys create --role admin` makes the first key.")
    keys: Keys = request.app.state.keys
    return keys


UseKeys = Annotated[Keys, Depends(of)]


@router.get("/keys", summary="All keys", **answers(answer.KeyList, raises=(Forbidden, NotReady)))
async def list_keys(keys: UseKeys) -> dict[str, Any]:
    """The keys with their limits and what they use, the revoked ones included, oldest first."""
    found = await keys.store.call(table.keys, keys.store)
    used = await keys.store.call(table.usage, keys.store)
    nothing = table.Usage(images=0, places=0)
    usages = [asdict(used.get(key.id, nothing)) for key in found]
    return {
        "keys": [
            {**shown(key), "images_today": usage["images"], "running": usage["places"]}
            for key, usage in zip(found, usages, strict=True)
        ]
    }


@router.post(
    "/keys",
    status_code=201,
    summary="Make a key",
    **answers(answer.CreatedKey, raises=(*BODY, InvalidInput, Forbidden, Conflict, NotReady), status=201),
)
async def create_key(request: Request, keys: UseKeys) -> dict[str, Any]:
    """Answers the secret in `key`, once: the service keeps its hash only. 409 where a key has the name."""
    body = await read_json(request, images=(), max_mb=1)
    warnings = note(request, ignored(body, KeyFields.model_fields))
    wanted = validated(body, KeyFields, RANGES).wanted()
    key, secret = await keys.store.call(table.create, keys.store, wanted)
    await keys.ring.load()
    return {**shown(key), "key": secret, **warnings}


@router.delete("/keys/{key}", summary="Revoke a key", **answers(answer.KeyView, raises=(NotFound, Forbidden, NotReady)))
async def revoke_key(key: str, keys: UseKeys) -> dict[str, Any]:
    """By its id or its name. It stops at once here, and within a second at other proxies; what was accepted is done."""
    revoked = await keys.store.call(table.revoke, keys.store, key)
    await keys.ring.load()
    return shown(revoked)
