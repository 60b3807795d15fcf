"""The table of options that callers of AUTOMATIC1111's API set."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from proxy.callers import CALLER, Caller
from proxy.sdapi import options
from proxy.sources import SOURCE
from proxy.tasks.database import connect
from proxy.tasks.store import Store


def test_caller_is_the_key_or_the_address() -> None:
    address, key = SOURCE.set("192.0.2.1"), CALLER.set(Caller())
    try:
        assert options.caller() == "address:192.0.2.1"
        CALLER.set(Caller(key="abc", address="192.0.2.1"))
        assert options.caller() == "key:abc"
    finally:
        CALLER.reset(key)
        SOURCE.reset(address)


def test_options_of_the_callers_that_changed_theirs_last_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "_MOST_CALLERS", 3)
    store = Store(connect(f"sqlite:///{tmp_path / 'a.db'}"))
    store.create()
    with store.transaction() as connection:
        for index in range(5):
            values = {"caller": f"key:{index}", "options": "{}", "changed_at": float(index)}
            connection.execute(sa.insert(options.OPTIONS).values(**values))
            options._forget_oldest(connection)
        kept = connection.scalars(sa.select(options.OPTIONS.c.caller).order_by(options.OPTIONS.c.changed_at)).all()
    assert kept == ["key:2", "key:3", "key:4"]
    store.close()
