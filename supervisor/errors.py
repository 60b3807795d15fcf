"""Errors of the machine or the checkout, before anything is served."""

from __future__ import annotations


class SetupError(Exception):
    """The machine or the checkout is not ready to serve. The message is one sentence that says what to fix."""
