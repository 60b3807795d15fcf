"""The audit trail: what was asked for, what was decided, and what came of it."""
