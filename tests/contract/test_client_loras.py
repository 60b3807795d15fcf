"""LoRAs through the Python client and the command line: the library, training sessions, and images."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from darkroom_client import Client
from darkroom_client.cli import main
from darkroom_client.cli_lora import lora
from darkroom_client.recorded import read_recorded
from safetensors.numpy import load

from darkroom.pipelines.sd15 import networks
from darkroom.serving.lora_layout import LoraLayout
from tests.clients import Call, darkroom, names
from tests.contract.generating import QUICK
from tests.lora_matrices import make_lora, write_diffusers_file
from tests.pictures import encoded, photo, pixels
from tests.service import ROOT, RunningService

WORDS = ("--steps", "2", "--seed", "5", "--size", "64")


@pytest.fixture(scope="module")
def service(lora_service: RunningService) -> RunningService:
    return lora_service


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A LoRA file, strong enough to be seen."""
    layout = LoraLayout.read(ROOT / "model_repository" / networks.UNET.name / "1")
    assert layout is not None, "run: python -m exporters sd15"
    layers = make_lora([layout], 4, 0, strength=2.0)["unet"]
    return write_diffusers_file(layers, layout, tmp_path_factory.mktemp("style") / "style.safetensors").read_bytes()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: bytes) -> Path:
    """The current folder, with a LoRA file and a folder of images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "style.safetensors").write_bytes(style)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.png").write_bytes(encoded(photo(16 * number, 0, 64, 64)))
    return tmp_path


def command(service: RunningService, *words: str) -> Result:
    result = darkroom(service.url, *words)
    assert result.exit_code == 0, result.output
    return result


def test_examples_of_the_help_run_as_they_stand(service: RunningService, here: Path) -> None:
    """In order, against a service without sessions: this test has to be the first one of the group."""
    lines = [line.strip() for line in (lora.help or "").splitlines()]
    examples = [line for line in lines if line.startswith("darkroom ")]
    assert len(examples) == 14
    said = {}
    for example in examples:
        words = shlex.split(example.partition("   ")[0])[1:]
        result = CliRunner(env={"DARKROOM_URL": service.url}).invoke(main, words)
        assert result.exit_code == 0, f"{example}\n{result.output}"
        said[" ".join(words[:2])] = result
    assert said["lora create"].stdout == "1\n"
    assert "step" in said["lora train"].stderr
    assert "loss" in said["lora train"].stderr
    written = names(here)
    assert {"ink.safetensors", "cat.safetensors"} < written
    assert (here / "ink.safetensors").read_bytes() == (here / "style.safetensors").read_bytes()
    assert load((here / "cat.safetensors").read_bytes())
    assert sum(name.endswith(".png") and "/" not in name for name in written) == 3


def test_client_of_the_library(service: RunningService, call: Call, style: bytes) -> None:
    added = call(service.url, "upload_lora", style, name="styles (v2) ü")
    digest = hashlib.sha256(style).hexdigest()
    assert (added.name, added.digest, added.size, added.refused) == ("styles (v2) ü", digest, len(style), {})
    (read,) = added.models.values()
    assert (read.applied, read.rank, read.warnings) == (read.total, 4, ())
    assert call(service.url, "lora", added.name).models == added.models
    assert added.name in {one.name for one in call(service.url, "loras")}
    assert call(service.url, "download_lora", added.name) == style
    plain = call(service.url, "generate", **QUICK, format="png")
    made = call(service.url, "generate", **QUICK, format="png", loras=[{"name": added.name, "weight": 0.8}])
    first, second = (pixels(one.images[0].data).astype(int) for one in (plain, made))
    assert np.abs(first - second).max() > 20
    call(service.url, "delete_lora", added.name)
    assert added.name not in {one.name for one in call(service.url, "loras")}


def test_client_trains_in_a_session(service: RunningService, call: Call, style: bytes) -> None:
    session = call(service.url, "create_session")
    assert call(service.url, "training", session).state == "none"
    call(service.url, "add_session_image", int(session), encoded(photo(0, 0, 64, 64)), "a photo of a cat")
    seen: list[Any] = []
    task = call(service.url, "train_lora", session, steps=3, rank=2, batch_size=1, seed=7, resolution=64)
    ended = call(service.url, "watch_training", session, on_progress=seen.append, timeout=60)
    assert (ended.state, ended.lora, ended.task_id) == ("completed", "lora_1.safetensors", task), ended
    assert seen
    assert {one.total_steps for one in seen} == {3}
    trained = call(service.url, "session_lora", session)
    ups = [value for name, value in load(trained.data).items() if name.endswith("lora_B.weight")]
    assert (trained.name, {value.shape[1] for value in ups}) == ("lora_1.safetensors", {2})
    assert all(np.isfinite(value).all() for value in ups)
    assert call(service.url, "upload_session_lora", session, style) == "lora_2.safetensors"
    assert call(service.url, "session_lora", session).data == style
    assert call(service.url, "session_lora", session, iteration=1) == trained
    found = next(one for one in call(service.url, "sessions") if one.id == session)
    assert (found.latest_lora, found.image_groups, found.training) == ("lora_2.safetensors", 1, ended)
    call(service.url, "delete_session", session)
    assert session not in {one.id for one in call(service.url, "sessions")}


def test_images_of_other_loras_are_made_and_the_same_are_skipped(service: RunningService, here: Path) -> None:
    command(service, "lora", "upload", "style.safetensors", "--name", "ink")
    session = command(service, "lora", "create").stdout.strip()
    data = (here / "style.safetensors").read_bytes()
    with Client(service.url) as client:
        client.upload_session_lora(session, data)
    digest = hashlib.sha256(data).hexdigest()
    same = (["--lora", "ink:0.5"], ["--lora", f"session:{session}:0.5"], ["--lora", f"sha256:{digest}:0.5"])
    for words in same:
        command(service, "generate", "a cat", *WORDS, *words, "-o", "out")
    assert names(here / "out") == {"a-cat-5.png"}
    for words in ([], ["--lora", "ink"]):
        for _ in range(2):
            command(service, "generate", "a cat", *WORDS, *words, "-o", "out")
    assert names(here / "out") == {"a-cat-5.png", "a-cat-5-2.png", "a-cat-5-3.png"}
    first = read_recorded(here / "out" / "a-cat-5.png")
    assert first is not None
    assert first["loras"] == [{"name": "ink", "digest": digest, "weight": 0.5}]
    for _ in range(2):
        tag = command(service, "generate", "a cat<lora:ink:0.5>", *WORDS, "-o", "tag.png")
    assert "skipped" in tag.stderr
    np.testing.assert_array_equal(*(pixels((here / name).read_bytes()) for name in ("tag.png", "out/a-cat-5.png")))
    command(service, "lora", "delete", "ink")
    command(service, "lora", "delete", "--session", session)


def test_a_training_that_is_cancelled_ends_the_watching(service: RunningService, here: Path) -> None:
    session = command(service, "lora", "create").stdout.strip()
    command(service, "lora", "add", session, "photos", "--prompt", "a cat")
    task = command(service, "lora", "train", session, "--steps", "100000").stdout.strip()
    again = darkroom(service.url, "lora", "train", session)
    assert (again.exit_code, again.stdout) == (1, "")
    found = json.loads(command(service, "lora", "list", "--json").stdout)["sessions"]
    assert next(one for one in found if one["session_id"] == session)["training"]["status"] == "in-progress"
    command(service, "cancel", task)
    watched = darkroom(service.url, "lora", "watch", session)
    assert (watched.exit_code, "The training was cancelled." in watched.stderr) == (1, True), watched.output
    command(service, "lora", "delete", "--session", session)


REFUSED = {
    "unknown name": (["show", "nothing"], "There is no LoRA 'nothing'"),
    "unknown download": (["download", "nothing"], "There is no LoRA 'nothing'"),
    "unknown session": (["watch", "999"], "There is no session '999'"),
    "no LoRA": (["download", "--session", "999"], "There is no session '999'"),
    "no file of a LoRA": (["upload", "photos/0.png"], "safetensors"),
    "bad name": (["upload", "style.safetensors", "--name", "../up"], "name must be 1 to 100 characters"),
    "rank": (["train", "999", "--rank", "129"], "rank must be"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_service_refuses(service: RunningService, here: Path, name: str) -> None:
    words, message = REFUSED[name]
    before = names(here)
    result = darkroom(service.url, "lora", *words)
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert names(here) == before


def test_generate_with_loras_that_are_refused(service: RunningService, here: Path) -> None:
    weight = darkroom(service.url, "generate", "a cat", "--lora", f"sha256:{'0' * 64}:11")
    assert (weight.exit_code, "loras[0].weight must be from -10 to 10; got 11. (--lora)" in weight.stderr) == (1, True)
    unknown = darkroom(service.url, "generate", "a cat", "--lora", "nothing")
    assert (unknown.exit_code, "There is no LoRA 'nothing'" in unknown.stderr) == (1, True)
    assert not list(here.glob("*.png"))
