"""The command `darkroom` itself: looking at a service, and commands that other packages bring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from darkroom_client.cli import main

from benchmarks.processes import free_port
from tests.clients import darkroom
from tests.unit.loopback import as_json, failure, in_turn, loopback

DARKROOM = [sys.executable, "-m", "darkroom_client"]


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


STATUS = {
    "active_workers": 8,
    "task_queue_size": 3,
    "result_queue_size": 0,
    "pending_tasks": 5,
    "total_gpus": 0,
    "gpu_info": [],
}


def test_status() -> None:
    gpus = [
        {"gpu_id": 0, "name": "[b]Some GPU", "memory_allocated": 1.26, "memory_reserved": 2},
        {"gpu_id": 1, "name": "Other", "memory_allocated": None},
    ]
    generate = {"checkpoint": {"name": "demo", "side": 128}, "schedulers": ["ddim", "lcm"], "controls": []}
    busy = {**STATUS, "total_gpus": 2, "gpu_info": gpus, "generate": generate}
    with loopback(in_turn(as_json(STATUS), as_json(busy), as_json(busy))) as server:
        idle, table = darkroom(server.url, "status"), darkroom(server.url, "status")
        raw = CliRunner().invoke(main, ["status", "--json", "--url", server.url])
    assert idle.stdout == "8 workers, 2 tasks running, 3 waiting\nno GPU\n"
    for text in ("[b]Some GPU", "1.3 GiB", "2.0 GiB", "unknown"):
        assert text in table.stdout
    assert table.stdout.endswith(
        "text to image:\n  checkpoint: name demo, side 128\n  schedulers: ddim, lcm\n  controls: none\n"
    )
    assert json.loads(raw.stdout) == busy


NOTHING: dict[str, object] = {"parameters": None, "fields": None, "darkroom": None, "chunks": {}}


def test_png_info_prints_the_parameters(tmp_path: Path) -> None:
    text = "a cat\nSteps: 20, Seed: 42\x1b[31m"
    found = {**NOTHING, "parameters": text, "fields": {"Steps": "20"}, "darkroom": {"seed": 42}}
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    for path in (one, two):
        path.write_bytes(b"picture")
    with loopback(in_turn(as_json(found))) as server:
        alone, both = darkroom(server.url, "png-info", str(one)), darkroom(server.url, "png-info", str(one), str(two))
        lines = darkroom(server.url, "png-info", "--json", str(one))
    printed = "a cat\nSteps: 20, Seed: 42\N{REPLACEMENT CHARACTER}[31m\n"
    assert (alone.exit_code, alone.stdout) == (0, printed)
    assert both.stdout == f"{one}:\n{printed}\n{two}:\n{printed}"
    assert json.loads(lines.stdout) == {"file": str(one), **found}


def test_png_info_of_what_has_none(tmp_path: Path) -> None:
    (tmp_path / "plain.png").write_bytes(b"plain")
    (tmp_path / "text.txt").write_bytes(b"text")
    refusal = failure(415, "not_an_image", "file: not an image.", "file")
    with loopback(lambda request: as_json(NOTHING) if request.file() == b"plain" else refusal) as server:
        words = [str(tmp_path / name) for name in ("missing.png", "text.txt", "plain.png")]
        result = darkroom(server.url, "png-info", *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert [line.rpartition("/")[2] for line in result.stderr.splitlines()] == [
        "missing.png: failed: No such file or directory",
        "text.txt: failed: file: not an image.",
        "plain.png: carries no parameters",
    ]
    nobody = darkroom(f"http://127.0.0.1:{free_port()}", "png-info", *words[1:])
    assert (nobody.exit_code, nobody.stderr.count("No Darkroom service answers")) == (1, 1)


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
    listed = " ".join(helped.stdout.split())
    for line in ("good Do good", "broken (of the package extra)", "upscale Enlarge images", "generate Make images"):
        assert line in listed
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
    code = "import sys, darkroom_client.cli; print(sorted({'httpx', 'rich', 'asyncio', 'PIL'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
