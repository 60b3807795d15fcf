"""The tables of keys, and of what they have used. They are in the database of the tasks."""

from __future__ import annotations

import sqlalchemy as sa

from proxy.tasks.schema import METADATA

KEYS = sa.Table(
    "darkroom_keys",
    METADATA,
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
    sa.Column("requests", sa.BigInteger, nullable=False, server_default="0"),  # that the rate let through
)

HITS = sa.Table(
    "darkroom_key_hits",
    METADATA,
    # A ring with a place for each request of the rate: the n-th request is at n modulo their number.
    sa.Column("key", sa.String(36), primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
)

CHARGES = sa.Table(
    "darkroom_key_charges",
    METADATA,
    sa.Column("id", sa.String(36), primary_key=True),  # of the task, or one of its own for a direct request
    sa.Column("key", sa.String(36), nullable=False),
    sa.Column("day", sa.Integer, nullable=False),  # of UTC, since the epoch
    sa.Column("images", sa.Integer, nullable=False),
    # While a direct request runs: when it counts as lost unless its proxy renews it. Null for what is settled.
    sa.Column("lease", sa.Double),
    sa.Index("darkroom_key_charges_key", "key", "day"),
)
