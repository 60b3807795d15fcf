"""The error of exports."""

from __future__ import annotations


class ExportError(Exception):
    """An export, a download or a check failed; the text says what to do about it."""
