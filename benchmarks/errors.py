"""Errors of this package."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A benchmark cannot run here, or what it measured is not what it should measure; the message says why."""
