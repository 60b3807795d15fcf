"""Logs to standard output and to a file, each line with its request's id."""

from __future__ import annotations

import contextvars
import logging
import logging.handlers
import re
import sys
from pathlib import Path

REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")

_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"
_FILE_BYTES, _FILES_KEPT = 20 << 20, 5
# Control characters, separators of lines, what turns the direction of writing, and halves of surrogate pairs.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


class _AddRequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = REQUEST_ID.get()
        return True


def escaped(text: str) -> str:
    """The text with everything written out that a terminal or a reader of lines would act upon."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class _OneLine(logging.Formatter):
    """One line for each record, whatever clients sent; the lines of a traceback behind it are indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return escaped(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        return _indented(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    return "\n".join(f"    {escaped(line)}" for line in text.split("\n"))


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
    handler.setFormatter(_OneLine(_FORMAT))
    handler.addFilter(_AddRequestId())
    return handler
