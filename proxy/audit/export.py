"""The audit trail as lines of JSON, or as a table."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any, TextIO

from proxy.audit.entries import FIELDS

_COLUMNS = ("seq", "time", *FIELDS, "row_hash", "row_previous")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What programs for tables take for a formula at the beginning of a cell."""


def write_jsonl(rows: Iterable[Any], file: TextIO) -> None:
    """Write one JSON object a line: what the row says, its `time`, `row_previous` and `row_hash`."""
    for row in rows:
        file.write(json.dumps(_as_dict(row), ensure_ascii=False) + "\n")


def write_csv(rows: Iterable[Any], file: TextIO) -> None:
    """Write a table with a column for every name; lists and objects are JSON. A text that a program could take for a
    formula gets an apostrophe in front."""
    writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in _as_dict(row).items()})


def _as_dict(row: Any) -> dict[str, Any]:
    time = datetime.fromtimestamp(row.at / 1e6, timezone.utc).isoformat(timespec="microseconds")
    said = {name: value for name, value in json.loads(row.content).items() if name != "at"}
    return {**said, "seq": row.seq, "time": time, "row_hash": row.hash, "row_previous": row.previous}


def _cell(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(_FORMULA) else text
