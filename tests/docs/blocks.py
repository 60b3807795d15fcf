"""The fenced blocks of the documentation, in the order in which a reader meets them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "docs/rest.md",
    "docs/openai.md",
    "docs/studio.md",
    "docs/clients.md",
    "docs/web-uis.md",
    "docs/deploying.md",
    "docs/benchmarking.md",
    "docs/local-engine.md",
    "docs/settings.md",
    "docs/performance.md",
    "docs/policy.md",
    "docs/add-a-family.md",
    "docs/architecture.md",
    "docs/exporting.md",
    "docs/licences.md",
    "docs/install.md",
    "docs/tasks.md",
    "docs/audit.md",
    "docs/provenance.md",
    "docs/monitoring.md",
    "docs/training-loras.md",
    "docs/keys.md",  # the last one: while there are keys, the service is closed
)

REASONS = ("hub", "gpu", "long", "tools")
"""Why a block may not be run: it needs a download, a GPU, more minutes than a test has, or tools and rights that this
machine may lack (Docker, Helm, root). Of the last, only the files that it names are checked."""
RUN = ("bash", "python")
SHOWN = ("text", "json")
"""Labels of blocks that hold no commands."""

_FENCE = re.compile(
    r"^(?P<marker><!--(?P<note>[^\n]*)-->\n)?^(?P<fence>```|~~~)(?P<label>[^\n]*)\n(?P<code>.*?)^(?P=fence)[ ]*$",
    re.M | re.S,
)
_COMMAND = re.compile(r"^(\$ |curl |darkroom |python |pip |\./|source |import |from )[^─]*$", re.M)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block.

    :param reason: one of `REASONS` if it is not run, else None.
    """

    page: str
    line: int
    label: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, text: str) -> Iterator[Block]:
    """The blocks of a page.

    :raises ValueError: a block is neither to be run, nor marked, nor without commands; it is named.
    """
    fences = 0
    for found in _FENCE.finditer(text):
        fences += 2
        line = text.count("\n", 0, found.start("fence")) + 1
        label, note, code = found["label"].strip(), (found["note"] or "").strip(), found["code"]
        reason = note.removeprefix("not run:").strip() if note.startswith("not run") else None
        if reason is not None and reason not in REASONS:
            raise ValueError(f"{page}:{line}: {note!r} gives no reason out of {', '.join(REASONS)}")
        if label not in RUN + SHOWN:
            raise ValueError(f"{page}:{line}: a block of {label!r}; label it {', '.join(RUN + SHOWN)}")
        if label in SHOWN and _COMMAND.search(code):
            raise ValueError(f"{page}:{line}: a block of {label} holds commands; label it bash or python")
        yield Block(page=page, line=line, label=label, code=code, reason=reason)
    if fences != len(re.findall(r"^\s*(?:```|~~~)", text, re.M)):
        raise ValueError(f"{page}: a block is indented, not closed, or opened within another one")


def commands(code: str) -> list[str]:
    """The simple commands of a bash block, a line each, without comments and with continued lines joined."""
    lines = code.replace("\\\n", " ").splitlines()
    return [" ".join(map(shlex.quote, words)) for line in lines if (words := shlex.split(line, comments=True))]


def outputs(code: str) -> list[str]:
    """The files and folders that a block says it writes: behind -o and --output, and of `write_bytes` in Python."""
    named = re.findall(r"(?<!\S)(?:-o|--output|--control-map)\s+(?!-)(\S+)", code)
    return named + re.findall(r"Path\(\"([^\"]+)\"\)\.write_bytes", code)
