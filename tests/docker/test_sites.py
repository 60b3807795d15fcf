"""The sites of nginx and the unit of systemd. nginx itself checks the sites and passes requests on in a heavy test."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import crossplane
import httpx
import pytest

from tests.docker.files import DOCKER, setting, settings_names, stop_seconds
from tests.nginx import PROXY, nginx_config, nginx_program, running_nginx

SITES = ("one-server.conf", "several-servers.conf")
UNIT = DOCKER / "systemd" / "darkroom.service"
systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze on this machine")


@pytest.mark.parametrize("site", SITES)
def test_directives_of_a_site_exist_and_are_in_their_place(site: str, tmp_path: Path) -> None:
    config = nginx_config(tmp_path, site, [1] if site.startswith("one") else [1, 2], 80)
    parsed = crossplane.parse(str(config), strict=True)
    assert parsed["status"] == "ok", parsed["errors"]


def test_nginx_passes_events_on_at_once_and_outlasts_long_work() -> None:
    words = dict(re.findall(r"^(proxy_\w+) ([^ ;]+);", PROXY.read_text(), re.M))
    assert words["proxy_buffering"] == "off"
    assert words["proxy_request_buffering"] == "off"
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        assert float(words[name].removesuffix("s")) > setting("task_timeout"), name


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nginx_program(tmp_path_factory.mktemp("nginx"))


class _Server(ThreadingHTTPServer):
    """Stands for a Darkroom: says what it got, and sends the second of two events when `go` is set."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.go = threading.Event()
        self.status = 200
        self.seen: list[tuple[str, str]] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.headers["X-Forwarded-For"]))
        if self.path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"data: 1\n\n")
            assert self.server.go.wait(60)
            self.wfile.write(b"data: 2\n\n")
            self.close_connection = True
            return
        self._answer(b"")

    def do_POST(self) -> None:
        self.server.seen.append((self.command, self.headers["X-Forwarded-For"]))
        size = int(self.headers["Content-Length"])
        read = 0
        while read < size:
            read += len(self.rfile.read(min(size - read, 1 << 20)))
        self._answer(str(read).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


def ports(servers: list[_Server]) -> list[int]:
    return [server.server_port for server in servers]


@contextlib.contextmanager
def serving(count: int) -> Iterator[list[_Server]]:
    servers = [_Server() for _ in range(count)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield servers
    finally:
        for server in servers:
            server.go.set()
            server.shutdown()
            server.server_close()


@pytest.mark.heavy
@pytest.mark.parametrize("site", SITES)
def test_nginx_streams_events_and_takes_big_uploads(nginx: Path, tmp_path: Path, site: str) -> None:
    with (
        serving(1 if site.startswith("one") else 2) as servers,
        running_nginx(nginx, tmp_path, site, ports(servers)) as url,
    ):
        with httpx.stream("GET", f"{url}/events", timeout=60, headers={"X-Forwarded-For": "6.6.6.6"}) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "data: 1", "the first event comes while the second does not exist yet"
            for server in servers:
                server.go.set()
            assert "data: 2" in list(lines)
        size = int(setting("max_batch_mb")) * 1_000_000
        assert httpx.post(f"{url}/api/upscale-batch", content=bytes(size), timeout=120).text == str(size)
        assert httpx.post(f"{url}/x", content=bytes(300_000_000), timeout=120).status_code == 413
        assert {address for server in servers for _, address in server.seen} == {"127.0.0.1"}


@pytest.mark.heavy
def test_nginx_sends_no_work_twice(nginx: Path, tmp_path: Path) -> None:
    with serving(2) as servers, running_nginx(nginx, tmp_path, "several-servers.conf", ports(servers)) as url:
        for server in servers:
            server.status = 503
        assert httpx.get(url, timeout=60).status_code == 503
        assert [len(server.seen) for server in servers] == [1, 1], "a request that changes nothing is tried at both"
        assert httpx.post(url, content=b"x", timeout=60).status_code == 503
        assert sum(len(server.seen) for server in servers) == 3
        servers[0].status = 200
        assert {httpx.get(url, timeout=60).status_code for _ in range(6)} == {200}


def unit_values() -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.M):
        values.setdefault(name, []).append(value)
    return values


def test_unit_stops_after_the_drain_and_signals_the_supervisor_alone() -> None:
    values = unit_values()
    assert float(values["TimeoutStopSec"][0]) >= stop_seconds()
    assert values["KillMode"] == ["mixed"]
    assert values["User"] == ["darkroom"]


def test_unit_writes_only_to_its_own_folders() -> None:
    values = unit_values()
    variables = dict(word.split("=", 1) for line in values["Environment"] for word in line.split())
    assert values["ProtectSystem"] == ["strict"]
    for name in ("STATE_DIR", "MODEL_REPOSITORY", "HOME"):
        assert Path(variables[name]).is_relative_to(f"/var/lib/{values['StateDirectory'][0]}"), name
    assert variables["LOG_DIR"] == f"/var/log/{values['LogsDirectory'][0]}"
    known = settings_names() | {"HOME", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    assert set(variables) <= known


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here, which systemd looks for."""
    text = UNIT.read_text().replace("/opt/venv/bin", str(Path(sys.executable).parent))
    path = tmp_path / UNIT.name
    path.write_text(text)
    return path


def _analyze(*arguments: Any) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@systemd
def test_systemd_verifies_the_unit(unit: Path) -> None:
    assert unit.name not in _analyze("verify", "--man=no", unit), "a line about the unit is a complaint"


@systemd
def test_systemd_judges_the_unit_as_hardened(unit: Path) -> None:
    said = _analyze("security", "--no-pager", "--offline=true", "--threshold=30", unit)
    assert "Overall exposure level" in said
