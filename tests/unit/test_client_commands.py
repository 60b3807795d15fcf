"""The command `darkroom` itself: looking at a service, and commands that other packages bring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from darkroom_client.cli import main

from tests.unit.loopback import as_json, in_turn, loopback

DARKROOM = [sys.executable, "-m", "darkroom_client"]


def darkroom(url: str, *words: str) -> Result:
    return CliRunner().invoke(main, ["--url", url, *words])


def test_info_is_a_table() -> None:
    title = "[b]photographs[/b], the best quality this service has, and rather slow on a machine without a GPU"
    content = {
        "models": [{"name": "x4plus", "title": title, "scales": [4]}, {"name": "fast", "title": "f", "scales": [2, 3]}],
        "default_model": "x4plus",
        "limits": {"max_upload_mb": 64, "scale": [1, 8]},
    }
    with loopback(in_turn(as_json(content))) as server:
        result, raw = darkroom(server.url, "info"), darkroom(server.url, "info", "--json")
    assert result.exit_code == 0
    for text in ("x4plus (default)", title, "x2 x3", "max_upload_mb", "64", "[1, 8]"):
        assert text in result.stdout
    assert "\x1b" not in result.stdout
    assert json.loads(raw.stdout) == content


def test_health_has_an_exit_code() -> None:
    up = as_json({"status": "healthy", "model_loaded": True, "device": {"type": "cpu", "name": "Some CPU"}})
    with loopback(in_turn(up)) as server:
        result = darkroom(server.url, "health")
    assert (result.exit_code, result.stdout) == (0, f"healthy: models loaded, cpu Some CPU, {server.url}\n")
    with loopback(in_turn(as_json({"status": "unhealthy", "model_loaded": False, "device": None}, 503))) as server:
        result, raw = darkroom(server.url, "health"), darkroom(server.url, "health", "--json")
    assert (result.exit_code, raw.exit_code) == (1, 1)
    assert result.stdout.startswith("unhealthy: models not loaded yet, device not known yet")
    assert json.loads(raw.stdout)["model_loaded"] is False


def test_a_wrong_address_is_one_plain_sentence() -> None:
    result = darkroom("localhost:8000", "health")
    assert result.exit_code == 1
    assert "Error: base_url must start with http://" in result.stderr


@pytest.fixture
def plugins(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `darkroom` beside an installed package that brings the commands good, broken and wrong."""
    info = tmp_path / "extra-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1\n")
    entries = (
        "good = extra_good:good\nbroken = extra_broken:broken\nwrong = extra_good:wrong\nabsent = extra_absent:a\n"
    )
    (info / "entry_points.txt").write_text(f"[darkroom.commands]\n{entries}")
    good = 'import sys, click\n@click.command()\ndef good():\n    """Do good. Always."""\n    click.echo("did good")\n'
    (tmp_path / "extra_good.py").write_text(good + 'sys.stderr.write("imported")\nwrong = 3\n')
    (tmp_path / "extra_broken.py").write_text("import a_module_that_is_not_there\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run([*DARKROOM, *words], env=environment, capture_output=True, text=True, check=False)

    return run


def test_commands_of_other_packages(plugins: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert plugins("good").stdout == "did good\n"
    helped = plugins("--help")
    assert "good     Do good\n" in helped.stdout
    assert "broken   (of the package extra)" in helped.stdout
    assert "upscale  Enlarge pictures" in helped.stdout
    assert "imported" not in helped.stderr
    for words, reason in (
        (["broken", "--some", "option"], "No module named 'a_module_that_is_not_there'"),
        (["broken", "--help"], "No module named 'a_module_that_is_not_there'"),
        (["wrong"], "extra_good:wrong is not a click command"),
        (["absent"], "No module named 'extra_absent'"),
    ):
        result = plugins(*words)
        assert result.returncode == 1
        assert reason in result.stderr
        assert "of the package extra cannot be loaded" in result.stderr
    assert plugins("nonsense").returncode == 2


def test_help_loads_no_http_stack() -> None:
    code = "import sys, darkroom_client.cli; print(sorted({'httpx', 'rich', 'asyncio'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
