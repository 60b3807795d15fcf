"""Alembic runs this file to begin: the connection is that of `proxy.migrations.upgrade`."""

from __future__ import annotations

from alembic import context

from proxy.migrations import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():  # of the caller, who commits
    context.run_migrations()
