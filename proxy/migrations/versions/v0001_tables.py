"""The tables of the first release with versions. Databases of the releases before it have some of them, with some of
the columns; what is missing is added."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_METADATA = sa.MetaData()

_TASKS = sa.Table(
    "darkroom_tasks",
    _METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("operation", sa.String(40), nullable=False),
    sa.Column("client", sa.String(200), nullable=False),
    sa.Column("priority", sa.String(10), nullable=False),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("tag", sa.Integer, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("idempotency_key", sa.String(300)),
    sa.Column("digest", sa.String(64), nullable=False),
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
    sa.Column("exclusive", sa.String(200)),
    sa.Column("held", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("worker", sa.String(100)),
    sa.Column("requested_operation", sa.String(40)),
    sa.UniqueConstraint("client", "idempotency_key"),
    sa.Index("darkroom_tasks_queue", "state", "rank", "created_at"),
    sa.Index("darkroom_tasks_exclusive", "exclusive", "state"),
    sa.Index("darkroom_tasks_client", "client", "created_at"),
)
sa.Table(
    "darkroom_speeds",
    _METADATA,
    sa.Column("operation", sa.String(40), primary_key=True),
    sa.Column("kind", sa.String(100), primary_key=True),
    sa.Column("learnt", sa.JSON, nullable=False),
)
sa.Table(
    "darkroom_gain",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("gain", sa.Double, nullable=False),
)
sa.Table("darkroom_database", _METADATA, sa.Column("id", sa.String(36), primary_key=True))
sa.Table(
    "darkroom_proxies",
    _METADATA,
    sa.Column("id", sa.String(100), primary_key=True),
    sa.Column("beat", sa.BigInteger, nullable=False),
)
sa.Table(
    "darkroom_keys",
    _METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("role", sa.String(10), nullable=False),
    sa.Column("rate", sa.String(20)),
    sa.Column("images_per_day", sa.Integer),
    sa.Column("concurrent", sa.Integer),
    sa.Column("priority", sa.String(10)),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("revoked_at", sa.Double),
    sa.Column("requests", sa.BigInteger, nullable=False, server_default="0"),
)
sa.Table(
    "darkroom_key_hits",
    _METADATA,
    sa.Column("key", sa.String(36), primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
)
sa.Table(
    "darkroom_key_charges",
    _METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("key", sa.String(36), nullable=False),
    sa.Column("day", sa.Integer, nullable=False),
    sa.Column("images", sa.Integer, nullable=False),
    sa.Column("lease", sa.Double),
    sa.Index("darkroom_key_charges_key", "key", "day"),
)
sa.Table(
    "darkroom_web_ui_options",
    _METADATA,
    sa.Column("caller", sa.String(200), primary_key=True),
    sa.Column("options", sa.Text, nullable=False),
    sa.Column("changed_at", sa.Double, nullable=False),
)
sa.Table(
    "darkroom_audit",
    _METADATA,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Index("darkroom_audit_at", "at"),
)
_HEAD = sa.Table(
    "darkroom_audit_head",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)


def upgrade() -> None:
    """Create the tables, and the columns and indexes that those of an older release lack. Such columns have a default
    or are nullable, so that a proxy of the older release can go on using the database."""
    connection = op.get_bind()
    _METADATA.create_all(connection)
    inspector = sa.inspect(connection)
    for table in _METADATA.sorted_tables:
        there = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                added = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                op.execute(f"ALTER TABLE {table.name} ADD COLUMN {added}")
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    if connection.scalar(sa.select(_HEAD.c.id)) is None:
        connection.execute(sa.insert(_HEAD).values(id=1, seq=0, hash="0" * 64))
    op.execute("DROP TABLE IF EXISTS darkroom_paces")  # no longer used
