"""The tables of the audit trail, in the database of the tasks."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()

FIRST = "0" * 64
"""What stands in the first row for the hash of the row before it."""

ROWS = sa.Table(
    "darkroom_audit",
    METADATA,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),  # microseconds since the epoch
    sa.Column("content", sa.Text, nullable=False),  # JSON in the one form that is hashed; see `chain.canonical`
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Index("darkroom_audit_at", "at"),
)

HEAD = sa.Table(
    "darkroom_audit_head",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),  # the table has one row: the end of the chain
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
HEAD_ID = 1
