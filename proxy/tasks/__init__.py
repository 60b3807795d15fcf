"""Durable tasks: accepted once, kept in a database, and run again after any crash until they have ended.

`models` what a task is · `store` the table that clients see · `files` inputs and results · `queue` who runs what, with
DBOS · `runner` one task until it has ended · `admission`, `overview`, `upkeep` accepting, looking, and regular rounds ·
`tasks` all of it together. What tasks can do is in `proxy.operations`.
"""
