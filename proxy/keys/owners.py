"""What belongs to whom: the rules, and the owners of files and folders, which are noted beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from darkroom.errors import Forbidden
from darkroom.files import write_atomically
from proxy.callers import CALLER


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who made something.

    :param client: as `Caller.client`.
    :param source: as `Caller.source`.
    :param shared: whether others may use it: it was made by an admin, or while the service had no keys.
    """

    client: str
    source: str | None = None
    shared: bool = False


def owner_now() -> Owner:
    """The owner of what the current request makes."""
    caller = CALLER.get()
    return Owner(client=caller.client, source=caller.source, shared=caller.sees_all)


def require_use(owners: Sequence[Owner], what: str) -> None:
    """Check whether the caller may see and use something: an admin, its owner, anyone where there are no keys.

    :param owners: none of them: only admins.
    :param what: such as "The task".
    :raises Forbidden: the caller may not.
    """
    if not may_use(owners):
        raise Forbidden(f"{what} belongs to another key.")


def may_use(owners: Sequence[Owner]) -> bool:
    """See `require_use`."""
    caller = CALLER.get()
    return caller.sees_all or any(owner.client == caller.client for owner in owners)


def require_change(owners: Sequence[Owner], what: str) -> None:
    """Check whether the caller may stop or delete something. Where there are no keys that is whoever comes with the
    credentials of its creator as they came, or from its address; anyone for what has no owner.

    :raises Forbidden: the caller may not.
    """
    caller = CALLER.get()
    if caller.key is not None or not caller.sees_all:
        require_use(owners, what)
    elif caller.client and owners and not any(_is_creator(owner) for owner in owners):
        raise Forbidden(
            f"{what} was made by somebody else: send the same Authorization or X-API-Key, or from the same address."
        )


def _is_creator(owner: Owner) -> bool:
    caller = CALLER.get()
    return owner.client == caller.client or owner.source == caller.source


class Owners:
    """The owners of the things in a folder, a small file for each. The methods read and write files: call them in a
    thread.

    :param folder: where the files are; it need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, name: str) -> list[Owner]:
        """The owners of a thing; none for what people put there by hand."""
        try:
            return [Owner(**one) for one in json.loads(self._path(name).read_bytes())]
        except FileNotFoundError:
            return []

    def add(self, name: str) -> None:
        """Make the caller an owner. Work of the service itself has none."""
        owner, there = owner_now(), self.of(name)
        if owner.client and owner not in there:
            write_atomically(self._path(name), json.dumps([asdict(one) for one in [*there, owner]]).encode())

    def leave(self, name: str) -> bool:
        """Take a thing from the caller; returns whether others still have it. Admins take it from everybody."""
        caller, there = CALLER.get(), self.of(name)
        left = [] if caller.sees_all else [owner for owner in there if owner.client != caller.client]
        if left:
            write_atomically(self._path(name), json.dumps([asdict(one) for one in left]).encode())
        return bool(left)

    def forget(self, name: str) -> None:
        """Forget the owners of a thing that is gone."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
