"""The database tables. DBOS has its own tables in the same database.

A change here needs a step in `proxy.migrations`, which makes and changes the tables; a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa

from proxy.tasks.models import EXCLUSIVE_LIMIT

METADATA = sa.MetaData()

TASKS = sa.Table(
    "darkroom_tasks",
    METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("operation", sa.String(40), nullable=False),
    sa.Column("client", sa.String(200), nullable=False),
    sa.Column("priority", sa.String(10), nullable=False),
    sa.Column("state", sa.String(12), nullable=False),
    # The database keeps the column names of older releases, which may use it at the same time.
    sa.Column("tag", sa.Integer, nullable=False, key="round"),
    sa.Column("rank", sa.Integer, nullable=False, key="order"),
    sa.Column("idempotency_key", sa.String(300)),
    sa.Column("digest", sa.String(64), nullable=False),
    # The run that may write. A run that lost the task (taken over or cancelled) finds another name here.
    sa.Column("run", sa.String(36)),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("fields", sa.JSON, nullable=False),
    sa.Column("files", sa.JSON, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(100), nullable=False),
    sa.Column("units", sa.Float, nullable=False),
    sa.Column("pictures", sa.Integer, nullable=False, server_default="1"),
    sa.Column("estimate", sa.Float, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("completed_at", sa.Double),
    sa.Column("expired_at", sa.Double),
    sa.Column("error", sa.JSON),
    sa.Column("results", sa.JSON, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("source", sa.String(200)),
    sa.Column("newcomer", sa.Boolean),
    sa.Column("lane", sa.String(20), nullable=False, server_default="images"),
    sa.Column("exclusive", sa.String(EXCLUSIVE_LIMIT)),
    sa.Column("held", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("worker", sa.String(100)),
    sa.Column("requested_operation", sa.String(40)),
    sa.UniqueConstraint("client", "idempotency_key"),  # requests without a key are never repetitions
    sa.Index("darkroom_tasks_queue", "state", "order", "created_at"),
    sa.Index("darkroom_tasks_exclusive", "exclusive", "state"),
    sa.Index("darkroom_tasks_client", "client", "created_at"),
)

SPEEDS = sa.Table(
    "darkroom_speeds",
    METADATA,
    sa.Column("operation", sa.String(40), primary_key=True),
    sa.Column("kind", sa.String(100), primary_key=True),
    sa.Column("learnt", sa.JSON, nullable=False),  # `estimates.Speed.as_json`
)

GAINS = sa.Table(
    "darkroom_gain",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),  # `Lane.number`: all kinds of a lane share one gain
    sa.Column("gain", sa.Double, nullable=False),
)

DATABASES = sa.Table(
    "darkroom_database",
    METADATA,
    sa.Column("id", sa.String(36), primary_key=True),  # the table has one row: a unique name of the database
)

PROXIES = sa.Table(
    "darkroom_proxies",
    METADATA,
    sa.Column("id", sa.String(100), primary_key=True),
    sa.Column("beat", sa.BigInteger, nullable=False),
)
