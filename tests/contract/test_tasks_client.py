"""Durable tasks through the Python client and the command line."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from darkroom_client import AsyncClient, Client, InvalidRequest, TaskInfo
from darkroom_client.cli import main
from darkroom_client.models import Preview, Progress
from PIL import Image

from tests.pictures import encoded, photo
from tests.service import RunningService

QUICK: dict[str, Any] = {"prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64}


def size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.size


def test_client_submits_watches_and_downloads(service: RunningService) -> None:
    states: list[str] = []
    steps: list[Progress] = []
    previews: list[Preview] = []
    with Client(service.url) as client:
        fields = {**QUICK, "steps": 40, "num_images": 2, "preview_every": 5, "width": 128, "height": 128}
        task = client.submit("generate", priority="high", **fields)
        assert (task.operation, task.state, task.ended, task.pictures) == ("generate", "queued", False, ())
        done = client.watch(
            task.id,
            on_state=lambda task: states.append(task.state),
            on_progress=steps.append,
            on_preview=previews.append,
        )
        assert (done.id, done.state, done.ended, done.error) == (task.id, "completed", True, None)
        assert states[-1] == "completed"
        assert steps[-1].total >= 40
        assert previews
        assert [picture.details["seed"] for picture in done.pictures] == [7, 8]
        for index, picture in enumerate(done.pictures):
            data = client.download(task.id, index)
            assert (len(data), size(data)) == (picture.size, (128, 128))
        assert client.task(task.id) == done
        assert client.tasks(limit=1)[0].id == task.id


def test_async_client_submits_watches_and_downloads(service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(photo(0, 0, 16, 16)))

    async def work() -> TaskInfo:
        async with AsyncClient(service.url) as client:
            task = await client.submit("upscale", image=path, model="animevideov3", scale=2)
            done = await client.watch(task.id)
            assert size(await client.download(task.id)) == (32, 32)
            assert (await client.task(task.id)).state == "completed"
            long = await client.submit("generate", **{**QUICK, "steps": 150, "width": 256, "height": 256})
            assert (await client.cancel(long.id)).state == "cancelled"
            assert (await client.watch(long.id)).state == "cancelled"
            assert long.id in {task.id for task in await client.tasks("cancelled")}
            return done

    assert asyncio.run(work()).state == "completed"


def test_client_with_the_same_key_gets_the_same_task(service: RunningService) -> None:
    with Client(service.url) as client:
        tasks = [client.submit("generate", idempotency_key="client-1", **QUICK) for _ in range(2)]
        assert tasks[0].id == tasks[1].id
        assert client.submit("generate", **QUICK).id != tasks[0].id
        with pytest.raises(InvalidRequest, match="Another request") as caught:
            client.submit("generate", idempotency_key="client-1", **{**QUICK, "seed": 8})
        assert caught.value.status == 409


def test_client_errors_of_tasks(service: RunningService) -> None:
    with Client(service.url) as client:
        with pytest.raises(InvalidRequest, match="steps must be from 1"):
            client.submit("generate", **{**QUICK, "steps": 0})
        for method in (client.task, client.cancel, client.watch, client.download):
            with pytest.raises(InvalidRequest, match="no task"):
                method("12345678-1234-1234-1234-123456789012")
            with pytest.raises(InvalidRequest, match="must be the id"):
                method("../health")


def command(service: RunningService, *words: str) -> Result:
    return CliRunner().invoke(main, ["--url", service.url, *words])


def test_the_command_line(service: RunningService, tmp_path: Path) -> None:
    quick = ("-s", "width=64", "-s", "height=64", "--steps", "2", "--seed", "7")
    submitted = command(service, "submit", "a cat", *quick, "--key", "cli-1")
    assert submitted.exit_code == 0, submitted.output
    id = submitted.stdout.strip()
    watched = command(service, "watch", id, "-o", str(tmp_path / "out"))
    assert watched.exit_code == 0, watched.output
    (written,) = (tmp_path / "out").iterdir()
    assert size(written.read_bytes()) == (64, 64)
    assert written.name in watched.stdout.replace("\n", "")
    assert "completed" in watched.stderr
    assert command(service, "submit", "a cat", *quick, "--key", "cli-1").stdout.strip() == id
    listed = command(service, "tasks", "--limit", "5")
    assert id in listed.stdout
    assert json.loads(command(service, "tasks", "--json").stdout)[0]["task_id"] == id
    late = command(service, "cancel", id)
    assert (late.exit_code, "completed already" in late.stderr) == (1, True)


def test_submit_and_watch_in_one(service: RunningService, tmp_path: Path) -> None:
    picture = tmp_path / "in.png"
    picture.write_bytes(encoded(photo(0, 0, 16, 16)))
    words = ["--operation", "upscale", "-i", str(picture), "-s", "model=animevideov3", "-s", "scale=2"]
    done = command(service, "submit", *words, "--watch", "-o", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["status"] == "completed"
    (written,) = (tmp_path / "out").iterdir()
    assert size(written.read_bytes()) == (32, 32)


def test_cancel_from_the_command_line(service: RunningService) -> None:
    id = command(service, "submit", "a cat", "--steps", "150", "-s", "width=256", "-s", "height=256").stdout.strip()
    assert command(service, "cancel", id).exit_code == 0
    watched = command(service, "watch", id)
    assert (watched.exit_code, "was cancelled" in watched.stderr) == (1, True)


def test_command_line_with_wrong_arguments(service: RunningService) -> None:
    assert command(service, "submit", "a cat", "-s", "steps").exit_code == 2
    refused = command(service, "submit", "a cat", "--steps", "9999")
    assert (refused.exit_code, "steps must be from 1" in refused.output) == (1, True)
    assert command(service, "submit").exit_code == 1
