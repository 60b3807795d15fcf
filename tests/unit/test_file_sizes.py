"""Python files stay short enough to be read at once: at most 400 lines, unless they hold data alone."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

from tests.service import ROOT

MOST_LINES = 400


def python_files(folder: Path) -> list[Path]:
    """The Python files that git tracks in a checkout, and those that it neither tracks nor ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    paths = [folder / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]


def is_data(text: str) -> bool:
    """Whether a module has no functions and no classes."""
    code = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    return not any(isinstance(node, code) for node in ast.walk(ast.parse(text)))


def too_long(paths: list[Path]) -> dict[str, int]:
    """Lines of the files that have too many, by path."""
    texts = {str(path): path.read_text() for path in paths}
    counted = {name: len(text.splitlines()) for name, text in texts.items()}
    return {name: lines for name, lines in counted.items() if lines > MOST_LINES and not is_data(texts[name])}


def test_file_sizes_of_the_project() -> None:
    paths = python_files(ROOT)
    assert len(paths) > 100
    assert too_long(paths) == {}


def test_file_sizes_notice_a_long_module_and_let_data_pass(tmp_path: Path) -> None:
    code, table, short = (tmp_path / name for name in ("code.py", "table.py", "short.py"))
    code.write_text("def f() -> None:\n    pass\n" + "\n" * 399)
    table.write_text("VALUES = [\n" + "    1,\n" * 500 + "]\n")
    short.write_text("def f() -> None:\n    pass\n" + "\n" * 398)
    assert too_long([code, table, short]) == {str(code): 401}
