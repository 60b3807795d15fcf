"""What a run found, and the two forms in which it is kept: JSON for programs, Markdown for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Cell = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One number that can be compared between machines, most often a ratio.

    :param value: for a ratio, the median of the rounds, in each of which both sides were measured.
    :param unit: "x" for a ratio, else what `value` is in.
    :param quartiles: of the ratios of the single rounds, 25 % and 75 %; None where there is one round only.
    :param target: what the project promises, at most or, with `at_least`, at least; None where it promises nothing.
    """

    name: str
    value: float
    unit: str = "x"
    quartiles: tuple[float, float] | None = None
    rounds: int = 1
    target: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True, kw_only=True)
class Table:
    """Absolute figures, for information: they belong to the machine that made them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """What one benchmark found. `missing` says why where it, or a part of it, did not run."""

    name: str
    title: str
    findings: tuple[Finding, ...] = ()
    tables: tuple[Table, ...] = ()
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole run.

    :param quick: fewer rounds and smaller images: it shows that the command works, its numbers mean little.
    :param machine: what ran it, as lines of a table; see `machine.describe`.
    :param command: what made it.
    """

    date: str
    quick: bool
    machine: Mapping[str, str]
    sections: tuple[Section, ...]
    command: str = "python -m benchmarks"


def shown(cell: Cell) -> str:
    """A cell as text: floats with three significant digits, an en dash for nothing."""
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def findings_table(sections: tuple[Section, ...]) -> Table:
    """All findings of some sections as one table."""
    rows = [_finding_row(finding) for section in sections for finding in section.findings]
    columns = ("measure", "value", "quartiles", "target", "met", "rounds")
    return Table(title="Ratios", columns=columns, rows=tuple(rows))


def _finding_row(finding: Finding) -> tuple[Cell, ...]:
    unit = "" if finding.unit == "x" else f" {finding.unit}"
    target = "–" if finding.target is None else f"{'≥' if finding.at_least else '≤'} {finding.target:g}{unit}"
    spread = None if finding.quartiles is None else " … ".join(f"{value:.3f}" for value in finding.quartiles)
    met = {None: "–", True: "yes", False: "NO"}[finding.met]
    return finding.name, f"{finding.value:.3f}{unit}", spread, target, met, finding.rounds


def write_report(report: Report, output: Path, stem: str) -> list[Path]:
    """Write `output`/STEM.json and `output`/STEM.md; the folder is made."""
    output.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, text in ((".json", to_json(report)), (".md", to_markdown(report))):
        paths.append(output / (stem + suffix))
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def to_json(report: Report) -> str:
    """The report as JSON; findings carry `met` as well."""
    content = dataclasses.asdict(report)
    for section, entry in zip(report.sections, content["sections"], strict=True):
        for finding, found in zip(section.findings, entry["findings"], strict=True):
            found["met"] = finding.met
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def to_markdown(report: Report) -> str:
    """The report as a page: the machine, the ratios, then every table of absolute figures."""
    lines = [f"# Benchmarks on {described(report.machine)}", ""]
    if report.quick:
        lines += ["A `--quick` run: it shows that the command works; its numbers mean little.", ""]
    lines += [f"Made by `{report.command}` on {report.date}.", ""]
    machine = Table(title="", columns=("machine", ""), rows=tuple(report.machine.items()))
    lines += [*_markdown_table(machine), "", "## Ratios", ""]
    lines += _markdown_table(findings_table(report.sections))
    for section in report.sections:
        lines += ["", f"## {section.title}"]
        if section.missing:
            lines += ["", f"Not run: {section.missing}"]
        for table in section.tables:
            lines += ["", f"**{table.title}**", "", *_markdown_table(table)]
            lines += ["", table.note] if table.note else []
    return "\n".join(lines) + "\n"


def described(machine: Mapping[str, str]) -> str:
    """The machine in a few words: its GPU where it has one, its processor and its cores."""
    return ", ".join([*([machine["gpu"]] if "gpu" in machine else []), machine["cpu"], f"{machine['cores']} cores"])


def _markdown_table(table: Table) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join(" --- " for _ in table.columns) + "|"
    return [line(table.columns), rule, *(line(tuple(shown(cell) for cell in row)) for row in table.rows)]
