"""Durable tasks: accepted once, kept in a database, run again after any crash until they have ended.

`models` what a task is · `store` the table that clients see · `files` inputs and results · `queue` who runs what, with
DBOS · `runner` one task from its turn to its end · `tasks` all of it together · `operations` what tasks can do.
"""
