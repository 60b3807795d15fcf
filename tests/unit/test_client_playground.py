"""`darkroom playground` where it cannot run. On the real service: tests/families/qwen_edit/test_qwen_edit_pages.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import free_port
from tests.clients import darkroom
from tests.playground import playground_command


def test_playground_without_gradio_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    done = darkroom("http://127.0.0.1:1", "playground")
    assert done.exit_code == 1
    assert "./install.sh --playground" in done.stderr
    assert "darkroom-client[playground]" in done.stderr


def test_playground_help_needs_no_gradio() -> None:
    done = darkroom("http://127.0.0.1:1", "playground", "--help")
    assert done.exit_code == 0
    assert "--host" in done.stdout


def test_playground_port_out_of_range_is_refused() -> None:
    done = darkroom("http://127.0.0.1:1", "playground", "--port", "70000")
    assert done.exit_code == 2
    assert "70000" in done.stderr


def test_playground_without_a_service_says_so() -> None:
    port = free_port()
    command = playground_command(f"http://127.0.0.1:{port}", free_port())
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr
