"""Logs to standard output and to a file, each line with the ids of its request, its trace and its task."""

from __future__ import annotations

import contextvars
import logging
import logging.handlers
import re
import sys
from pathlib import Path
from typing import Literal

from darkroom import tracing

_NO_REQUEST = "-"
REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default=_NO_REQUEST)
TASK_ID: contextvars.ContextVar[str] = contextvars.ContextVar("task_id", default="")

Format = Literal["text", "json"]

_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s%(trace)s] %(message)s"
_UNKNOWN = {"request_id": _NO_REQUEST, "trace": ""}
_JSON_FIELDS = ("levelname", "name", "message")
_JSON_NAMES = {"levelname": "level", "name": "logger", "exc_info": "exception", "stack_info": "stack"}
_FILE_BYTES, _FILES_KEPT = 20 << 20, 5
# Control characters, separators of lines, what turns the direction of writing, and halves of surrogate pairs.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


class _AddIds(logging.Filter):
    """Adds the ids that are known where a line is written."""

    def filter(self, record: logging.LogRecord) -> bool:
        known = record.__dict__
        if (request := REQUEST_ID.get()) != _NO_REQUEST:
            known["request_id"] = request
        if task := TASK_ID.get():
            known["task_id"] = task
        if ids := tracing.ids():
            known |= {"trace_id": ids[0], "span_id": ids[1], "trace": f" trace={ids[0]}"}
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


def _objects() -> logging.Formatter:
    """One object on one line for each record, with the ids that are known."""
    from pythonjsonlogger.core import RESERVED_ATTRS  # imported here, because not every installation wants it
    from pythonjsonlogger.json import JsonFormatter

    hidden = [*RESERVED_ATTRS, "trace", "color_message"]  # the last one is uvicorn's, for terminals
    return JsonFormatter(_JSON_FIELDS, rename_fields=_JSON_NAMES, timestamp="time", reserved_attrs=hidden)


def configure(*, level: str, file: Path, format: Format = "text") -> None:
    """Send the root logger to standard output and to `file`."""
    root = logging.getLogger()
    root.handlers.clear()
    root.setLevel(level)
    root.addHandler(_dressed(logging.StreamHandler(sys.stdout), format))
    log_to_file(root, file, format)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def log_to_file(logger: logging.Logger, file: Path, format: Format = "text") -> None:
    """Also write a logger's lines to `file`, rotating at 20 MB."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(file, maxBytes=_FILE_BYTES, backupCount=_FILES_KEPT)
    logger.addHandler(_dressed(handler, format))


def _dressed(handler: logging.Handler, format: Format = "text") -> logging.Handler:
    handler.setFormatter(_objects() if format == "json" else _OneLine(_FORMAT, defaults=_UNKNOWN))
    handler.addFilter(_AddIds())
    return handler
