"""The chain of rows: each has the hash of the row before it, so that a change of one breaks all that follow.

The functions wait for the database; call them in a thread.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from proxy.audit.schema import FIRST, HEAD, HEAD_ID, ROWS

Entry = Mapping[str, Any]
"""What a row says, as values of JSON. `seq` and `at` are added when it is written."""

RETENTION = "retention"
"""The event of rows that say that older rows were deleted: those up to `through`, the last of which had `hash`."""
_AT_A_TIME = 500
# Made once: to build these for each commit would cost as much as the commit.
_MOVE_HEAD = (
    sa.update(HEAD)
    .where(HEAD.c.id == HEAD_ID)
    .values(seq=HEAD.c.seq + sa.bindparam("count"))
    .returning(HEAD.c.seq, HEAD.c.hash)
)
_INSERT = sa.insert(ROWS)
_NAME_LAST = sa.update(HEAD).where(HEAD.c.id == HEAD_ID).values(hash=sa.bindparam("last"))


def canonical(content: Mapping[str, Any]) -> str:
    """The one text of a row that is hashed: JSON in ASCII, names sorted, no spaces."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def hash_of(previous: str, content: str) -> str:
    """The hash of a row: the SHA-256 of the previous row's hash, a line feed, and the canonical text."""
    return hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest()


def append(connection: sa.Connection, entries: Sequence[Entry]) -> None:
    """Write rows at the end of the chain, in a transaction of the caller, which commits them.

    The head is updated first, which locks it until the transaction ends. So writers take turns, on PostgreSQL and on
    SQLite. A transaction that changes other rows as well has to change them before it calls this.
    """
    seq, last = connection.execute(_MOVE_HEAD, {"count": len(entries)}).one()
    rows, seq = [], seq - len(entries)
    for entry in entries:
        seq, at = seq + 1, time.time_ns() // 1000
        content = canonical({**entry, "seq": seq, "at": at})
        row = {"seq": seq, "at": at, "content": content, "previous": last, "hash": hash_of(last, content)}
        rows.append(row)
        last = row["hash"]
    connection.execute(_INSERT, rows)
    connection.execute(_NAME_LAST, {"last": last})


def prune(connection: sa.Connection, *, before: int) -> int:
    """Delete the rows at the beginning of the chain that are older; return how many. A new row says so, from which the
    rest can be verified.

    :param before: microseconds since the epoch.
    """
    kept = connection.scalar(sa.select(sa.func.min(ROWS.c.seq)).where(ROWS.c.at >= before))
    older = sa.select(ROWS.c.seq, ROWS.c.hash).where(ROWS.c.at < before)
    if kept is not None:
        older = older.where(ROWS.c.seq < kept)
    last = connection.execute(older.order_by(ROWS.c.seq.desc()).limit(1)).one_or_none()
    if last is None:
        return 0
    deleted = connection.execute(sa.delete(ROWS).where(ROWS.c.seq <= last.seq)).rowcount
    if not deleted:  # another proxy has just deleted them
        return 0
    append(connection, [{"event": RETENTION, "through": last.seq, "hash": last.hash, "rows": deleted}])
    return int(deleted)


def rows(connection: sa.Connection, *, since: int | None = None, until: int | None = None) -> Iterator[Any]:
    """The rows in their order, read some at a time.

    :param since, until: microseconds since the epoch; `until` is excluded.
    """
    query = sa.select(ROWS).order_by(ROWS.c.seq)
    if since is not None:
        query = query.where(ROWS.c.at >= since)
    if until is not None:
        query = query.where(ROWS.c.at < until)
    yield from connection.execution_options(yield_per=_AT_A_TIME).execute(query)


@dataclass(kw_only=True)
class Verified:
    """What `verify` found.

    :ivar rows: the number of rows, of which the last is `seq` with `hash`.
    :ivar problems: a sentence for each.
    """

    rows: int = 0
    seq: int = 0
    hash: str = FIRST
    problems: list[str] = field(default_factory=list)


def verify(connection: sa.Connection, known: Mapping[int, str] | None = None) -> Verified:
    """Check every row, and that none is missing. Rows may be written meanwhile.

    :param known: hashes by `seq`, from elsewhere. Only with these is a chain found that was written anew as a whole.
    """
    # The head is read first: what is written meanwhile comes behind it.
    head = connection.execute(sa.select(HEAD.c.seq, HEAD.c.hash).where(HEAD.c.id == HEAD_ID)).one()
    expected = {head.seq: head.hash} if head.seq else {}
    missing, found = {**expected, **(known or {})}, Verified()
    before: Any = None
    beginning = (0, FIRST)
    anchors: set[tuple[Any, Any]] = {beginning}
    for row in rows(connection):
        content = _content(row)
        found.problems += _problems_of(row, content, missing)
        if before is None:
            beginning = (row.seq - 1, row.previous)
        else:
            found.problems += _problems_between(before, row)
        if content.get("event") == RETENTION:
            anchors.add((content.get("through"), content.get("hash")))
        found.rows, before = found.rows + 1, row
    if beginning not in anchors:
        found.problems.append(f"rows up to {beginning[0]} are removed, and no later row says so")
    if before is not None:
        found.seq, found.hash = before.seq, before.hash
    if found.seq < head.seq:
        found.problems.append(f"rows {found.seq + 1} to {head.seq} are removed at the end")
    late = {seq for seq in missing if beginning[0] < seq and (seq > found.seq) and seq != head.seq}
    found.problems += [f"row {seq} is not there, whose hash is known" for seq in sorted(late)]
    return found


def _content(row: Any) -> dict[str, Any]:
    """What a row says; nothing of a text that is not JSON any more."""
    try:
        content = json.loads(row.content)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _problems_of(row: Any, content: Mapping[str, Any], known: dict[int, str]) -> list[str]:
    """What is wrong with a row by itself. Those that are compared with `known` are removed there."""
    expected = known.pop(row.seq, None)
    if hash_of(row.previous, row.content) != row.hash:
        return [f"row {row.seq} is changed"]
    if content.get("seq") != row.seq:
        return [f"row {row.seq} is reordered: it was written as row {content.get('seq')}"]
    if content.get("at") != row.at:
        return [f"row {row.seq} is changed: its time is not the one that it was written with"]
    if expected not in (None, row.hash):
        return [f"row {row.seq} is changed: its hash is not the one that is known of it"]
    return []


def _problems_between(before: Any, row: Any) -> list[str]:
    if row.seq != before.seq + 1:
        gap = f"row {before.seq + 1} is" if row.seq == before.seq + 2 else f"rows {before.seq + 1} to {row.seq - 1} are"
        return [f"{gap} removed"]
    if row.previous != before.hash:
        return [f"row {row.seq} does not follow row {before.seq}: one of them is changed, or rows are removed"]
    return []
