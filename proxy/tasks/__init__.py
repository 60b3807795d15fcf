"""Durable tasks: accepted once, stored in a database, and run again after a crash until they have ended.

`models` the data types · `store` the database table · `files` inputs and results on disk · `queue` the DBOS queue ·
`runner` runs one task until it has ended · `admission` accepts tasks · `overview` queue estimates and counts ·
`upkeep` periodic maintenance · `tasks` the facade for the routes. `proxy.operations` has the work that tasks do.
"""
