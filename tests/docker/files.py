"""Where the files of docker/ are, and what several tests read of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from darkroom.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
STOP_SECONDS = 70
"""What a stop may take after the drain: 15 s more for the proxy, 15 s for Triton, and 20 s for each if it is killed."""


def setting(name: str) -> float:
    """The default of a number among the settings."""
    return float(Settings.model_fields[name].default)


def stop_seconds() -> float:
    """How long a stop of the service may take with the default settings."""
    return setting("drain_timeout") + STOP_SECONDS


def settings_names() -> set[str]:
    """The names of all settings."""
    return set(re.findall(r"^([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.M))


def loaded(path: Path) -> Any:
    """The content of a YAML file."""
    return yaml.safe_load(path.read_text())


def tool(name: str, *arguments: str | Path) -> str:
    """Run a tool that is installed beside this Python; returns its output. It has to succeed."""
    program = Path(sys.executable).with_name(name)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{name} {arguments}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def image_environment(dockerfile: str) -> dict[str, str]:
    """The variables that a Dockerfile sets."""
    text = (DOCKER / dockerfile).read_text().replace("\\\n", " ")
    words = " ".join(re.findall(r"^ENV (.*)$", text, re.M)).split()
    return dict(word.split("=", 1) for word in words)
