"""A family in one folder, and what the service makes of it."""
