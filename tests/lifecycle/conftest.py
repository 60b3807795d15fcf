"""Fixtures that the tests of deaths share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import running_postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """The setting of each kind of database."""
    if request.param == "sqlite":
        yield {}
        return
    with running_postgres() as server:
        yield {"database_url": server.url}
