"""The connection to the database of tasks, keys and the audit trail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

CONNECTIONS = 8
"""Of a process, at most."""
_POSTGRES_TIMEOUTS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
    "options": "-c statement_timeout=30000 -c idle_in_transaction_session_timeout=15000",
}
"""Timeouts, so that requests get 503 when PostgreSQL cannot be reached, and so that a proxy that is suspended within a
transaction does not block the others for long."""
_BUSY_MILLISECONDS = 30_000


def connect(url: str) -> sa.Engine:
    """Create an engine for `sqlite:///file` or `postgresql://...`."""
    address = sa.make_url(url)
    if address.get_backend_name() != "sqlite":
        return sa.create_engine(
            address.set(drivername="postgresql+psycopg"),
            pool_size=CONNECTIONS,
            pool_pre_ping=True,
            connect_args=_POSTGRES_TIMEOUTS,
        )
    Path(address.database or "").parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(address, pool_size=CONNECTIONS)

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
        connection.execute("PRAGMA journal_mode=WAL")  # readers and the writer do not wait for each other
        connection.execute("PRAGMA synchronous=FULL")  # what was accepted outlives a power cut

    return engine
