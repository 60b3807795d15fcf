"""Modules do not import each other in a circle, and packages import only what lies below them."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.service import ROOT

PACKAGES = ("benchmarks", "darkroom", "exporters", "proxy", "supervisor", "training")
BELOW = {
    "benchmarks": {"benchmarks", "darkroom", "exporters", "proxy", "training"},
    "darkroom": {"darkroom"},
    "exporters": {"darkroom", "exporters"},
    "proxy": {"darkroom", "proxy"},
    "supervisor": {"darkroom", "exporters", "proxy", "supervisor"},
    "training": {"darkroom", "exporters", "training"},
}
"""What a package may import of the others when its modules are loaded."""


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules that are imported when this one is loaded: not those that functions import, nor those of types."""
    found: set[str] = set()
    todo: list[ast.stmt] = list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known.keys() or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            todo += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try | ast.With):
            todo += node.body
    return found & known.keys()


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every group of modules that reach each other."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, todo = set[str](), [start]
        while todo:
            for after in graph[todo.pop()] - seen:
                seen.add(after)
                todo.append(after)
        reach[start] = seen
    groups = {frozenset(other for other in reach[one] if one in reach[other]) for one in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(path, known) - {name} for name, path in known.items()}


def test_imports_make_no_circle() -> None:
    assert circles(graph()) == []


def test_imports_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_imports_go_down_only() -> None:
    wrong = []
    for name, wanted in graph().items():
        package = name.partition(".")[0]
        wrong += [f"{name} imports {other}" for other in wanted if other.partition(".")[0] not in BELOW[package]]
    assert wrong == []


def test_imports_of_tests_name_no_test_module() -> None:
    """What several test modules need is in a conftest.py or in a module of helpers."""
    tests = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "tests").rglob("*.py")}
    modules_of_tests = {name for name in tests if name.rpartition(".")[2].startswith("test_")}
    assert len(modules_of_tests) > 100
    wrong = {name: imports(path, tests) & modules_of_tests for name, path in tests.items()}
    assert {name: found for name, found in wrong.items() if found} == {}
