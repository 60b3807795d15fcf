"""The wheels, installed into a new environment outside of the checkout: a home folder, the service, an image."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks.processes import started
from benchmarks.service import server_settings
from tests.installed import Installed, build_wheels, install
from tests.service import ROOT, Server

FAMILIES = "sd15,upscale"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    return install(build_wheels(folder), folder)


def test_wheels_hold_what_the_service_needs(installed: Installed) -> None:
    code = (
        "import darkroom.home as h, proxy, supervisor; print(h.INSTALLED, h.ROOT, proxy.__file__, supervisor.__file__)"
    )
    done = subprocess.run(
        [installed.python, "-c", code], cwd="/", env=installed.environment(), capture_output=True, text=True, check=True
    )
    found = done.stdout.split()
    assert found[:2] == ["True", str(installed.home)]
    assert all(path.startswith(str(installed.folder)) for path in found[2:])
    packages = Path(found[2]).parents[1]
    for name in (
        "darkroom/shipped/backends/onnxruntime/model.py",
        "darkroom/shipped/policies/example.yaml",
        "proxy/web/index.html",
        "proxy/migrations/versions/v0001_tables.py",
        "exporters/checkpoints/single_file/clip_merges.txt.gz",
        "darkroom_client/py.typed",
        "darkroom_demo/demo-sd15/model_index.json",
    ):
        assert (packages / name).is_file(), name
    web = {path.relative_to(ROOT) for path in (ROOT / "proxy" / "web").rglob("*") if path.is_file()}
    assert {path for path in web if not (packages / path).is_file()} == set()


def test_commands_say_what_is_missing_before_there_is_a_home_folder(installed: Installed) -> None:
    done = installed.run("serve", darkroom_home=installed.folder / "none")
    assert done.returncode == 1
    assert f"There is no home folder {installed.folder / 'none'}; make it: darkroom init --demo" in done.stderr


def test_init_writes_settings_as_comments_and_changes_no_file_of_the_user(installed: Installed) -> None:
    home = installed.folder / "plain"
    done = installed.run("init", str(home))
    assert done.returncode == 0, done.stderr
    assert f"export DARKROOM_HOME={home}" in done.stdout
    lines = (home / ".env").read_text().splitlines()
    assert "# PORT=8000" in lines
    assert "# STATE_DIR=state" in lines
    assert all(not line or line.startswith("#") for line in lines)
    assert (home / "policies" / "example.yaml").is_file()
    (home / ".env").write_text("PORT=9000\n")
    assert installed.run("init", str(home)).returncode == 0
    assert (home / ".env").read_text() == "PORT=9000\n"
    refused = installed.run("serve", darkroom_home=home)
    assert f"has no models; run: darkroom init --demo {home}" in refused.stderr


@pytest.mark.heavy
def test_installed_service_makes_images(installed: Installed) -> None:
    """Networks are exported anew, which takes minutes."""
    cache = ROOT / ".darkroom" / "cache"
    if cache.is_dir():  # the weights that exports download
        shutil.copytree(cache, installed.home / "state" / "cache")
    made = installed.run("init", "--demo", families=FAMILIES)
    assert made.returncode == 0, made.stderr
    assert "Start the service: darkroom serve" in made.stdout
    ours = server_settings(installed.folder)
    settings = {name: ours[name] for name in ("host", "port", "triton_grpc_port", "triton_metrics_port")}
    environment = installed.environment(families=FAMILIES, **settings)
    program = [str(installed.python.with_name("darkroom")), "serve"]
    with started(program, installed.folder, settings=environment) as process:
        service = Server(process=process, url=f"http://127.0.0.1:{settings['port']}", folder=installed.folder)
        service.wait_healthy(300)
        image = installed.folder / "cat.png"
        words = ("generate", "a cat on a blue background", "--seed", "7", "-o", str(image))
        drawn = installed.run(*words, darkroom_url=service.url)
        assert drawn.returncode == 0, drawn.stderr
        assert image.read_bytes().startswith(b"\x89PNG")
        large = installed.folder / "large.png"
        grown = installed.run("upscale", str(image), str(large), darkroom_url=service.url)
        assert grown.returncode == 0, grown.stderr
        assert large.read_bytes().startswith(b"\x89PNG")
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    assert (installed.home / "state" / "data" / "darkroom.db").is_file()
    assert {path.name for path in installed.home.iterdir()} == {
        ".env",
        "checkpoints",
        "logs",
        "model_repository",
        "policies",
        "state",
    }
