"""A backup of a service that works, restored elsewhere: its tasks go on there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.contract.tasks import submit, wait_ended
from tests.service import link_models, running_service
from tests.waiting import until

MODELS = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")


def darkroom(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `darkroom WORDS` for the service whose state is in a folder."""
    command = [Path(sys.executable).with_name("darkroom"), *words]
    environment = {**os.environ, "STATE_DIR": str(folder / "state")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_task_that_runs_during_a_backup_completes_where_it_is_restored(tmp_path: Path) -> None:
    folders = here, there = tmp_path / "here", tmp_path / "there"
    for folder in folders:
        folder.mkdir()
    settings = {
        "model_repository": link_models(tmp_path / "repository", *MODELS),
        "max_concurrent_tasks": 1,
        "canary_interval": 3600,
    }
    file = tmp_path / "backup.tar.gz"
    with running_service(here, **settings) as service, httpx.Client(base_url=service.url, timeout=60) as http:
        done = wait_ended(http, submit(http)["task_id"])
        result = http.get(done["result_urls"][0]).content
        running, waiting = submit(http, steps=150, seed=8, width=256, height=256, num_images=2), submit(http, seed=9)
        until(lambda: http.get(f"/tasks/{running['task_id']}").json()["progress"])
        made = darkroom("backup", file, folder=here)
        assert made.returncode == 0, made.stderr
        assert http.get(f"/tasks/{waiting['task_id']}").json()["status"] == "queued", "it was taken from a busy service"
        refused = darkroom("restore", "--force", file, folder=here)
        assert refused.returncode == 1
        assert "stop it first" in refused.stderr
    restored = darkroom("restore", file, folder=there)
    assert restored.returncode == 0, restored.stderr
    with running_service(there, **settings) as service, httpx.Client(base_url=service.url, timeout=60) as http:
        states = [wait_ended(http, task["task_id"])["status"] for task in (done, running, waiting)]
        assert states == ["completed"] * 3
        first, last = (http.get(f"/tasks/{task['task_id']}").json() for task in (done, waiting))
        assert http.get(first["result_urls"][0]).content == result
        assert http.get(last["result_urls"][0]).content.startswith(b"\x89PNG")
