"""Reads files of checkpoints that differ from the usual form: JSON with a byte order mark, other names of indexes.

The libraries that load checkpoints take neither, so they are given a view of the folder in which all is as they expect.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exporters.errors import ExportError

_MARK = b"\xef\xbb\xbf"


def read_json(root: Path, name: str) -> dict[str, Any]:
    """An object of one of the JSON files of a checkpoint, with a byte order mark or without.

    :raises ExportError: it is missing or damaged.
    """
    try:
        content = json.loads((root / name).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ExportError(f"{root.name} is no checkpoint in the diffusers folder layout: it has no {name}.") from None
    except (OSError, ValueError) as error:
        raise ExportError(f"{root.name}/{name} cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise ExportError(f"{root.name}/{name} cannot be read: it holds no JSON object.")
    return content


@contextmanager
def plain_view(folder: Path, renamed: Mapping[str, str] | None = None) -> Iterator[Path]:
    """The folder itself where its files are as libraries expect them; else a temporary one with links to its files.

    :param renamed: the names that files have to have, by the names that they have.
    """
    files = [path for path in folder.iterdir() if path.is_file()]
    marked = {path.name for path in files if path.suffix == ".json" and _marked(path)}
    others = {old: new for old, new in (renamed or {}).items() if old != new}
    if not marked and not others:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="darkroom-checkpoint-") as name:
        view = Path(name)
        for path in files:
            target = view / others.get(path.name, path.name)
            if path.name in marked:
                target.write_bytes(path.read_bytes().removeprefix(_MARK))
            elif not target.exists():
                os.symlink(path.resolve(), target)  # noqa: PTH211
        yield view


def _marked(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MARK)) == _MARK
