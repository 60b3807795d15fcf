"""What an export can fail of, each as one sentence for a person."""

from __future__ import annotations


class ExportError(Exception):
    """An export, a download or a check failed; the text says what to do about it."""
