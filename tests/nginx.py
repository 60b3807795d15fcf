"""A real nginx as a test subject, with the sites of docker/nginx."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import free_port
from tests.docker.files import DOCKER

PROXY = DOCKER / "nginx" / "proxy.conf"


def nginx_config(folder: Path, site: str, servers: list[int], port: int) -> Path:
    """A whole configuration around one of the sites: with these servers on this machine, and nothing outside `folder`.

    :param servers: ports that stand for the servers of the site, as many as it names.
    """
    text = (DOCKER / "nginx" / site).read_text()
    named = re.findall(r"^\s+server ([\w.-]+:8000)", text, re.M)
    assert len(named) == len(servers)
    for name, here in zip(named, servers, strict=True):
        text = text.replace(name, f"127.0.0.1:{here}")
    text = re.sub(r"listen \d+;", f"listen 127.0.0.1:{port};", text)
    text = text.replace("/etc/nginx/darkroom-proxy.conf", str(PROXY))
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log info;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temporary}{text}\n}}\n"
    )
    return config


def nginx_program(folder: Path) -> Path:
    """nginx of this machine, else of Debian's package, which is unpacked and not installed."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found:
        return Path(found)
    for command in (["apt-get", "update"], ["apt-get", "download", "nginx"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    (package,) = folder.glob("nginx_*.deb")
    subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)
    return folder / "root" / "usr" / "sbin" / "nginx"


@contextlib.contextmanager
def running_nginx(nginx: Path, folder: Path, site: str, servers: list[int]) -> Iterator[str]:
    port = free_port()
    config = nginx_config(folder, site, servers, port)
    checked = subprocess.run([nginx, "-t", "-c", config], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr
    process = subprocess.Popen([nginx, "-c", config], stderr=subprocess.DEVNULL)  # it has a log of its own
    try:
        deadline = time.monotonic() + 60
        while not _listens(port):
            assert process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
