"""The options that clients of AUTOMATIC1111's API set: one set for each caller, in the database of tasks.

That web UI has one set for everybody. Here several people use one service, and several proxies may answer them: so the
options belong to the key, or to the address, and are in the database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from darkroom.errors import NotReady, TooLarge
from proxy.callers import CALLER
from proxy.models import ServedModel
from proxy.sdapi.checkpoints import chosen, chosen_or_default, title_of
from proxy.sdapi.refusals import CHECKPOINT
from proxy.services import Services
from proxy.sources import SOURCE
from proxy.tasks.schema import METADATA
from proxy.tasks.tasks import Tasks

OPTIONS = sa.Table(
    "darkroom_web_ui_options",
    METADATA,
    sa.Column("caller", sa.String(200), primary_key=True),
    sa.Column("options", sa.Text, nullable=False),  # JSON in ASCII
    sa.Column("changed_at", sa.Double, nullable=False),
)
_MOST_BYTES = 1 << 16
_MOST_CALLERS = 10_000
"""Callers whose options are kept: those that changed theirs last."""
HASH = "sd_checkpoint_hash"
_USUAL: dict[str, Any] = {
    "samples_format": "png",
    "sd_vae": "Automatic",
    "CLIP_stop_at_last_layers": 1,
    "show_progress_every_n_steps": 5,
    "live_previews_enable": True,
}
"""Options that clients read, with what is true here."""


def caller() -> str:
    """Whose options, progress and interruptions are meant: the key of the current request, else its address."""
    key = CALLER.get().key
    return f"key:{key}"[:200] if key is not None else f"address:{SOURCE.get()}"[:200]


async def stored(tasks: Tasks) -> dict[str, Any]:
    """The options that the caller has set.

    :raises NotReady: the database is unavailable.
    """
    who = caller()

    def read(connection: sa.Connection) -> str | None:
        found: str | None = connection.scalar(sa.select(OPTIONS.c.options).where(OPTIONS.c.caller == who))
        return found

    text = await tasks.transact(read)
    options: dict[str, Any] = json.loads(text) if text else {}
    return options


async def store(tasks: Tasks, services: Services, changes: Mapping[str, Any]) -> None:
    """Set options of the caller. Those that nothing here reads are kept, so that clients find what they have set.

    :raises InvalidInput, NotFound: there is no such model.
    :raises TooLarge: the options take more than 64 KB.
    :raises NotReady: the database is unavailable.
    """
    if changes.get(CHECKPOINT):
        changes = {**changes, CHECKPOINT: chosen(services, changes[CHECKPOINT]).name}
    who = caller()

    def write(connection: sa.Connection) -> None:
        same = OPTIONS.c.caller == who
        before = connection.scalar(sa.select(OPTIONS.c.options).where(same))
        text = json.dumps({**(json.loads(before) if before else {}), **changes})
        if len(text) > _MOST_BYTES:
            raise TooLarge(f"The options take {len(text):,} bytes; at most {_MOST_BYTES:,} are kept.", param="body")
        values = {"options": text, "changed_at": time.time()}
        if not connection.execute(sa.update(OPTIONS).where(same).values(**values)).rowcount:
            connection.execute(sa.insert(OPTIONS).values(caller=who, **values))
            _forget_oldest(connection)

    await tasks.transact(write, locked=True)


def _forget_oldest(connection: sa.Connection) -> None:
    newest = sa.select(OPTIONS.c.changed_at).order_by(OPTIONS.c.changed_at.desc()).offset(_MOST_CALLERS).limit(1)
    oldest_kept = connection.scalar(newest)
    if oldest_kept is not None:
        connection.execute(sa.delete(OPTIONS).where(OPTIONS.c.changed_at <= oldest_kept))


async def shown(tasks: Tasks, services: Services) -> dict[str, Any]:
    """All options, as the web UI shows them.

    :raises NotReady: the database is unavailable.
    """
    options = await stored(tasks)
    model = chosen_or_default(services, options.get(CHECKPOINT))
    checkpoint = model.checkpoint(services)
    known = {CHECKPOINT: title_of(services, model), HASH: checkpoint.digest if checkpoint is not None else ""}
    return {**_USUAL, **options, **known}


async def model_of(tasks: Tasks, services: Services, override: Mapping[str, Any]) -> ServedModel:
    """The model of a request: that of its `override_settings`, else that of the caller's options, else the default.

    While the database is unavailable the options do not count.

    :raises InvalidInput, NotFound: the request names a model that is not there.
    """
    if override.get(CHECKPOINT):
        return chosen(services, override[CHECKPOINT])
    try:
        options = await stored(tasks)
    except NotReady:
        options = {}
    return chosen_or_default(services, options.get(CHECKPOINT))
