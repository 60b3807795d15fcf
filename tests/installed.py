"""A virtual environment with Darkroom from its wheels, outside of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.service import ROOT

PROJECTS = (".", "client", "checkpoints")
_NO_SOURCES = shutil.ignore_patterns(
    ".git", ".venv", ".darkroom", "node_modules", "model_repository", "tests", "build", "__pycache__", "*.egg-info"
)


def build_wheels(folder: Path) -> list[Path]:
    """Build the three wheels with the command of docs/install.md, from a copy, so that the checkout stays clean."""
    copy = folder / "sources"
    shutil.copytree(ROOT, copy, ignore=_NO_SOURCES)
    # Build isolation would fetch setuptools from an index; the one of the tests' environment does as well.
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    target = folder / "dist"
    subprocess.run([*command, "-w", target, *(f"./{name}" for name in PROJECTS)], cwd=copy, check=True)
    shutil.rmtree(copy)
    return sorted(target.glob("*.whl"))


@dataclass(frozen=True, kw_only=True)
class Installed:
    """The environment, and a home folder for it."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def home(self) -> Path:
        """The home folder."""
        return self.folder / "home"

    def environment(self, **settings: object) -> dict[str, str]:
        """The variables of its commands: none of this checkout's."""
        dropped = ("PYTHONPATH", "VIRTUAL_ENV", "STATE_DIR", "MODEL_REPOSITORY")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        named = {name.upper(): str(value) for name, value in settings.items()}
        return {**kept, "DARKROOM_HOME": str(self.home), **named}

    def run(self, *words: str, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run `darkroom WORDS` in another folder than the home folder."""
        command: list[Any] = [self.python.with_name("darkroom"), *words]
        environment = self.environment(**settings)
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)


def install(wheels: list[Path], folder: Path) -> Installed:
    """Make the environment. Packages that Darkroom needs come from the one of the tests, which has them all; its own
    editable Darkroom does not, as the .pth files of that folder are not read."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    installed = Installed(folder=folder)
    arguments = ["--quiet", "--no-deps", "--no-index", "--force-reinstall", *map(str, wheels)]
    subprocess.run([sys.executable, "-m", "pip", "--python", installed.python, "install", *arguments], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "venv" / "lib" / version / "site-packages"
    # Behind its own folder on sys.path.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return installed
