"""Logs to standard output and to a file, each line with its request's id."""

from __future__ import annotations

import contextvars
import logging
import logging.handlers
import sys
from pathlib import Path

REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")

_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"
_FILE_BYTES, _FILES_KEPT = 20 << 20, 5


class _AddRequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = REQUEST_ID.get()
        return True


def configure(*, level: str, file: Path) -> None:
    """Send the root logger to standard output and to `file`."""
    root = logging.getLogger()
    root.handlers.clear()
    root.setLevel(level)
    root.addHandler(_dressed(logging.StreamHandler(sys.stdout)))
    log_to_file(root, file)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def log_to_file(logger: logging.Logger, file: Path) -> None:
    """Also write a logger's lines to `file`, rotating at 20 MB."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(file, maxBytes=_FILE_BYTES, backupCount=_FILES_KEPT)
    logger.addHandler(_dressed(handler))


def _dressed(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(_AddRequestId())
    return handler
