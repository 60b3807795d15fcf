"""Dockerfiles, the scripts of their steps, and the compose files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.docker.files import DOCKER, ROOT, image_environment, loaded, setting, settings_names, stop_seconds, tool

DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.gpu")
COMPOSE = ("docker-compose.yml", "docker-compose.gpu.yml")
VOLUMES = {"/var/lib/darkroom", "/var/log/darkroom"}


def services(file: str) -> dict[str, dict[str, Any]]:
    return dict(loaded(DOCKER / file)["services"])


def ours(file: str) -> dict[str, dict[str, Any]]:
    """The services that run our image."""
    return {name: one for name, one in services(file).items() if one["image"].startswith("darkroom:")}


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Volumes by where they are mounted."""
    return {volume.split(":")[1]: volume.split(":")[0] for volume in service.get("volumes", [])}


def seconds(text: str) -> float:
    assert text.endswith("s"), text
    return float(text[:-1])


@pytest.mark.parametrize("file", DOCKERFILES)
def test_hadolint_finds_nothing(file: str) -> None:
    tool("hadolint", "--failure-threshold", "style", DOCKER / file)


def test_shellcheck_finds_nothing() -> None:
    scripts = [*DOCKER.glob("*.sh"), *DOCKER.glob("steps/*.sh")]
    assert len(scripts) == 4
    assert all(os.access(script, os.X_OK) for script in scripts)
    tool("shellcheck", *scripts)


def test_both_images_have_the_same_steps() -> None:
    cpu, gpu = ((DOCKER / file).read_text().replace("\\\n", " ") for file in DOCKERFILES)
    rest = [
        re.findall(r"^(?!FROM|#)(\S.*)$", text, re.M)
        for text in (cpu, gpu.replace("packages.sh gpu", "packages.sh cpu"))
    ]
    assert rest[0] == rest[1]
    steps = set(re.findall(r"docker/steps/(\S+\.(?:sh|py))", cpu.replace('"', " ")))
    assert steps == {path.name for path in (DOCKER / "steps").iterdir() if path.is_file()}


@pytest.mark.parametrize("file", DOCKERFILES)
def test_image_runs_as_its_own_user_and_writes_only_to_volumes(file: str) -> None:
    text = (DOCKER / file).read_text()
    assert re.findall(r"^USER (.*)$", text, re.M) == ["10001:10001"]
    assert set(re.findall(r'"(/[^"]+)"', "".join(re.findall(r"^VOLUME (.*)$", text, re.M)))) == VOLUMES
    folders = image_environment(file)
    for name in ("STATE_DIR", "LOG_DIR", "MODEL_REPOSITORY", "HOME"):
        assert any(Path(folders[name]).is_relative_to(volume) for volume in VOLUMES), name
    # Only there may `prepare` write configs for the devices of this machine.
    assert folders["MODEL_REPOSITORY"] == f"{folders['STATE_DIR']}/model_repository"


def test_image_holds_all_packages_that_are_served() -> None:
    named = re.search(r"packages.find\]\ninclude = \[(.*)\]", (ROOT / "pyproject.toml").read_text())
    assert named
    packages = set(re.findall(r'"(\w+)\*"', named[1]))
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {line[1:] for line in lines if line.startswith("!")}
    assert packages - copied == {"benchmarks"}
    assert {"backends", "checkpoints", "client", "pyproject.toml", "docker/steps"} <= copied
    assert "*" in lines, "only what is named is copied"


def test_images_install_the_same_torch_as_install_sh() -> None:
    versions = {
        re.findall(r"TORCH:-([\d.]+)\}", path.read_text())[0]
        for path in (ROOT / "install.sh", DOCKER / "steps" / "python-packages.sh")
    }
    assert len(versions) == 1


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_check_tells_ready_from_loading(status: int, code: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/health"
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"models load")

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        command = [sys.executable, "-I", DOCKER / "steps" / "healthy.py"]
        env = {**os.environ, "PORT": str(server.server_port), "http_proxy": "http://127.0.0.1:1"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        server.shutdown()
    assert done.returncode == code
    assert ("models load" in done.stderr) == (code == 1)


@pytest.mark.parametrize("file", COMPOSE)
def test_compose_file_has_the_schema_of_compose(file: str) -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / file)


@pytest.mark.parametrize("file", COMPOSE)
def test_services_cannot_write_to_their_root_file_system(file: str) -> None:
    for name, service in services(file).items():
        assert service["read_only"] is True, name
        assert any(entry.startswith("/tmp") for entry in service["tmpfs"]), name
        assert "no-new-privileges:true" in service["security_opt"], name
    for name, service in ours(file).items():
        assert service["cap_drop"] == ["ALL"], name
        assert "/var/lib/darkroom" in mounts(service), name
        assert int(service["shm_size"].removesuffix("gb")) >= 1, name


@pytest.mark.parametrize("file", COMPOSE)
def test_servers_have_time_to_drain(file: str) -> None:
    servers = {name: one for name, one in ours(file).items() if "entrypoint" not in one}
    assert servers
    for name, service in servers.items():
        assert seconds(service["stop_grace_period"]) >= stop_seconds(), name
        assert set(mounts(service)) >= VOLUMES, name
        assert service["init"] is True, name


@pytest.mark.parametrize("file", COMPOSE)
def test_ports_are_published_on_this_machine_only(file: str) -> None:
    published = [port for service in services(file).values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert published[0].startswith("${DARKROOM_BIND:-127.0.0.1}:")
    assert all(port.startswith("127.0.0.1:") for port in published[1:]), "Grafana and Jaeger ask for no password"


@pytest.mark.parametrize("file", COMPOSE)
def test_volumes_and_files_of_a_compose_file_exist(file: str) -> None:
    used = {source for service in services(file).values() for source in mounts(service).values()}
    assert {source for source in used if not source.startswith(".")} == set(loaded(DOCKER / file)["volumes"])
    for source in used:
        assert not source.startswith(".") or (DOCKER / source).is_file(), source
    for service in services(file).values():
        if "build" in service:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        names = set(service.get("environment", {})) if "darkroom" in service["image"] else set()
        assert names <= settings_names(), names


def test_gpu_servers_share_tasks_and_models_and_nothing_else() -> None:
    file = "docker-compose.gpu.yml"
    servers = {name: one for name, one in ours(file).items() if one.get("command") == ["serve"]}
    exporter = next(one for one in ours(file).values() if "entrypoint" in one)
    assert len(servers) > 1
    where = [mounts(service) for service in servers.values()]
    for path in where[0]:
        volumes = {mount[path] for mount in where}
        shared = path in ("/var/lib/darkroom/data", "/var/lib/darkroom/model_repository")
        assert len(volumes) == (1 if shared else len(servers)), path
    assert mounts(exporter)["/var/lib/darkroom/model_repository"] == where[0]["/var/lib/darkroom/model_repository"]
    devices = [one["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for one in servers.values()]
    assert sorted(devices) == [[str(index)] for index in range(len(servers))]
    for service in servers.values():
        assert service["depends_on"]["export"]["condition"] == "service_completed_successfully"
        assert "command" in service, "with the image's own command each of them would export"


def test_nginx_names_every_gpu_server() -> None:
    servers = {name for name, one in ours("docker-compose.gpu.yml").items() if one.get("command") == ["serve"]}
    site = (DOCKER / "nginx" / "several-servers.conf").read_text()
    assert set(re.findall(r"^\s+server (\S+):8000", site, re.M)) == servers
    assert set(services("docker-compose.gpu.yml")["nginx"]["depends_on"]) == servers


def test_every_gpu_server_uses_all_tritons() -> None:
    servers = {name: one for name, one in ours("docker-compose.gpu.yml").items() if one.get("command") == ["serve"]}
    for service in servers.values():
        values = service["environment"]
        assert sorted(values["TRITON_GRPC"].split(",")) == sorted(f"{name}:8001" for name in servers)
        assert (values["TRITON_GRPC_BIND"], values["TRITON_METRICS_BIND"]) == ("0.0.0.0", "0.0.0.0")


def test_limits_of_uploads_fit_the_settings() -> None:
    found = re.search(r"client_max_body_size (\d+)m;", (DOCKER / "nginx" / "proxy.conf").read_text())
    assert found
    assert int(found[1]) > setting("max_batch_mb")
