"""Every command of README and docs runs as it stands on a fresh clone, in order, with the files that it names.

The clone is a copy of the checkout with a virtual environment of its own, in which the packages of this environment
are there already, and with the exported models of this checkout. `./start.sh` starts the service in it, all other
blocks run in one "terminal", and Ctrl-C stops the service. Blocks that need a hub, a GPU or many minutes are marked in
the text, and of these the options are checked. Where the ports of the text are taken, others are put in their place.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks.processes import free_port
from tests.conftest import heed_ctrl_c
from tests.docs.blocks import PAGES, REASONS, ROOT, RUN, Block, blocks, commands, outputs

START = "./start.sh\n"
PORTS = {"PORT": 8000, "TRITON_GRPC_PORT": 8001, "TRITON_METRICS_PORT": 8002}
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
BLOCK_SECONDS = 900
"""A block that takes longer hangs. All of them together take two minutes on two idle cores."""


def all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks(page, (ROOT / page).read_text())]


@dataclass
class Clone:
    """A fresh clone and the terminal that a reader has open in it.

    :param env: of the terminal; a block may change it, as `activate` does.
    :param ports: by the port of the text, the one that takes its place.
    """

    folder: Path
    env: dict[str, str]
    ports: Mapping[int, int]
    seen: dict[Path, int] = field(default_factory=dict)

    def text(self, code: str) -> str:
        """The code with the ports that are used here."""
        return re.sub(r"(?<=127\.0\.0\.1:)\d+\b", lambda found: str(self.ports[int(found[0])]), code)

    def run(self, block: Block) -> None:
        """Run a block in the terminal; it and each of its commands has to succeed."""
        code = self.text(block.code)
        if block.label == "python":
            (self.folder / ".darkroom" / "block.py").write_text(code)
            code = "python .darkroom/block.py"
        state = self.folder / ".darkroom" / "environment"
        script = f"set -eo pipefail\n{code}\nenv -0 > {state}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{block} ended with {done.returncode}:\n{code}\n{done.stdout}\n{done.stderr}"
        self.env = dict(entry.split("=", 1) for entry in state.read_text().split("\0") if entry)

    def check_files(self, block: Block) -> None:
        """Of a block for tools that are not here: the files of this repository that it names are there."""
        for name in re.findall(r"(?<![\w/])docker/[\w./-]+", block.code):
            assert (self.folder / name).exists(), f"{block}: {name}"

    def check_options(self, block: Block) -> None:
        """Of a block that is not run: each command is there and takes these options."""
        for command in commands(block.code):
            done = subprocess.run(
                ["bash", "-c", f"{command} --help"], cwd=self.folder, env=self.env, capture_output=True, check=False
            )
            assert done.returncode == 0, f"{block}: {command}\n{done.stderr.decode()}"

    def new_files(self) -> list[Path]:
        """What was written since the last call, beside the service's own state."""
        own = (".venv", ".darkroom", "logs", "model_repository", "__pycache__", "home")
        now = {
            path: path.stat().st_mtime_ns
            for path in self.folder.rglob("*")
            if path.is_file() and not set(own) & set(path.relative_to(self.folder).parts)
        }
        new = [path for path, changed in now.items() if self.seen.get(path) != changed]
        self.seen = now
        return new


def check_outputs(clone: Clone, block: Block) -> None:
    """What the block says it writes is there, and every image that it wrote can be read."""
    new = clone.new_files()
    for name in outputs(block.code):
        path = clone.folder / name
        # What a folder is to hold may be there already, from the same command on another page.
        assert path in new or (path.is_dir() and any(path.iterdir())), f"{block} wrote no {name}"
    for path in new:
        if path.suffix in PICTURES:
            with Image.open(path) as image:
                image.load()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                assert archive.namelist(), path
                for name in archive.namelist():
                    with archive.open(name) as file, Image.open(file) as image:
                        image.load()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    folder = tmp_path_factory.mktemp("docs") / "darkroom"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    unneeded = shutil.ignore_patterns("__pycache__")  # and services of other tests may write to it meanwhile
    shutil.copytree(ROOT / "model_repository", folder / "model_repository", dirs_exist_ok=True, ignore=unneeded)
    if (ROOT / ".darkroom" / "cache").is_dir():  # the weights that exports download
        shutil.copytree(ROOT / ".darkroom" / "cache", folder / ".darkroom" / "cache")
    (folder / ".darkroom").mkdir(exist_ok=True)
    (folder / "home").mkdir()
    (folder / "home" / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / ".venv")}))
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    ports = {port: port if _is_free(port) else free_port() for port in PORTS.values()}
    env = {
        "HOST": "127.0.0.1",
        "HOME": str(folder / "home"),
        "PATH": os.pathsep.join(
            p for p in os.environ["PATH"].split(os.pathsep) if p != str(Path(sys.executable).parent)
        ),
        "LANG": "C.UTF-8",
        "NUM_GPUS_TO_USE": "0",
        "DARKROOM_URL": f"http://127.0.0.1:{ports[8000]}",
        **{name: str(ports[port]) for name, port in PORTS.items()},
        **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))},
    }
    made = Clone(folder=folder, env=env, ports=ports)
    made.new_files()
    return made


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="module")
def service(clone: Clone) -> Iterator[subprocess.Popen[bytes]]:
    """`./start.sh` in a terminal of its own, until it is ready."""
    log = clone.folder.with_name("start.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [START.strip()],
            cwd=clone.folder,
            env=clone.env,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C in a terminal reaches all that runs in it
            preexec_fn=heed_ctrl_c,
        )
    try:
        deadline = time.monotonic() + 1200
        while "Darkroom is ready" not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.timeout(3000)
def test_every_command_of_the_documentation_runs(clone: Clone, service: subprocess.Popen[bytes]) -> None:
    done = all_blocks()
    assert sum(block.code == START for block in done) == 1, "the service is started once"
    assert done[0].code == START, "everything else needs the service"
    for block in done[1:]:
        if block.label not in RUN:
            continue
        if block.reason is None:
            clone.run(block)
            check_outputs(clone, block)
        elif block.reason == "tools":
            clone.check_files(block)
        elif block.label == "bash":
            clone.check_options(block)
    health = httpx.get(f"{clone.env['DARKROOM_URL']}/health", timeout=30).json()
    assert health["status"] == "healthy"
    assert health["total_tasks"] >= 2, "the tasks of the text went to this service"
    os.killpg(service.pid, signal.SIGINT)
    assert service.wait(120) == 0


def test_blocks_that_are_not_run_say_why() -> None:
    assert {block.reason for block in all_blocks()} <= {None, *REASONS}
    fenced = "```{}\ncurl localhost\n```\n"
    for text in (
        fenced.format(""),
        fenced.format("text"),
        "<!-- not run: lazy -->\n" + fenced.format("bash"),
        "```bash\n",
    ):
        with pytest.raises(ValueError, match=r"page:?"):
            list(blocks("page", text))


def test_both_readmes_have_the_same_commands() -> None:
    ours, theirs = (list(blocks(page, (ROOT / page).read_text())) for page in ("README.md", "README.zh-TW.md"))
    assert [(b.label, b.reason) for b in ours] == [(b.label, b.reason) for b in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert _bare(one) == _bare(other), f"{one} and {other}"


def test_both_readmes_have_the_same_structure() -> None:
    ours, theirs = ((ROOT / page).read_text() for page in ("README.md", "README.zh-TW.md"))
    for pattern in (r"^#+ ", r"^\|.*$", r"\]\((?!#|README)([^)]+)\)"):
        mine, yours = (re.findall(pattern, text, re.M) for text in (ours, theirs))
        same = [[len(row.split("|")) if row.startswith("|") else row for row in rows] for rows in (mine, yours)]
        assert same[0] == same[1]


def test_links_of_the_documentation_lead_somewhere() -> None:
    for page in (*PAGES, "README.zh-TW.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", (ROOT / page).read_text()):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def _bare(block: Block) -> list[str]:
    """The code without its comments."""
    return commands(block.code) if block.label == "bash" else block.code.splitlines()
