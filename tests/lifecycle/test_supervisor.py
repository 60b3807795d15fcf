"""`darkroom serve` from the outside: processes that die are started again, and it stops when it is asked to."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.processes import free_port
from darkroom.settings import Settings
from supervisor.doctor import _tasks
from supervisor.errors import SetupError
from supervisor.triton import libpython_folder
from tests.pictures import encoded, photo
from tests.service import ROOT, RunningService, link_models, running_service

FAST = {"model": "animevideov3-x2"}
MODELS = ("upscale", "realesrgan_animevideov3_x2", "realesrgan_animevideov3_x4")
PICTURES = ("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")
BACK_WITHIN = 30.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of the models, so that a start takes less time."""
    return link_models(tmp_path_factory.mktemp("repository"), *MODELS)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("supervisor"), model_repository=repository) as running:
        running.wait_for_log("Darkroom is ready", timeout=30)
        yield running


def upscale(service: RunningService, size: int = 32, **fields: object) -> httpx.Response:
    files = {"file": encoded(photo(0, 0, size, size))}
    return httpx.post(f"{service.url}/api/upscale", files=files, data={**FAST, **fields}, timeout=120)


@pytest.mark.parametrize("victim", ["/upscale/", "/realesrgan_animevideov3_x2/", "bin/tritonserver", "-m proxy"])
def test_killed_processes_come_back(service: RunningService, victim: str) -> None:
    assert upscale(service).status_code == 200
    mark = len(service.log())
    process = next(p for p in service.find(victim) if "stub" in p.name() or victim.startswith(("bin", "-m")))
    process.kill()
    died = {"-m proxy": "starting proxy again", "bin/tritonserver": "starting triton again"}
    alone = f"loading {victim.strip('/')} again"
    seconds = service.wait_for_log(died.get(victim, alone), after=mark, timeout=BACK_WITHIN)
    seconds += service.wait_healthy(BACK_WITHIN)
    seconds += service.wait_for_log("everything is up again", after=mark, timeout=BACK_WITHIN)
    assert seconds < BACK_WITHIN
    assert upscale(service).status_code == 200
    assert ("starting triton again" in service.log()[mark:]) == (victim == "bin/tritonserver")


@pytest.mark.parametrize("victim", ["upscale", "realesrgan_animevideov3_x2"])
def test_killed_stub_that_works_comes_back_alone(service: RunningService, victim: str) -> None:
    """Triton never ends the calls that were in it: theirs are answered with 503."""
    answers: list[httpx.Response] = []
    worker = threading.Thread(target=lambda into=answers: into.append(upscale(service, 512, tile=64)))
    mark = len(service.log())
    before = service.counter("nv_inference_exec_count", MODELS[1])
    worker.start()
    while service.counter("nv_inference_exec_count", MODELS[1]) == before:  # its tiles are being enlarged
        time.sleep(0.02)
    next(p for p in service.find(f"/{victim}/") if "stub" in p.name()).kill()
    service.wait_for_log("everything is up again", after=mark, timeout=BACK_WITHIN)
    worker.join(BACK_WITHIN)
    assert answers[0].status_code == 503, answers[0].text
    assert int(answers[0].headers["retry-after"]) > 0
    assert upscale(service).status_code == 200
    assert "starting triton again" not in service.log()[mark:]


def test_model_that_dies_again_and_again_has_triton_restarted(tmp_path: Path) -> None:
    """With one of the networks only: the canary of upscaling does without those that are not there."""
    models = link_models(tmp_path / "repository", *MODELS[:2])
    with running_service(tmp_path, model_repository=models) as service:
        service.wait_for_log("Darkroom is ready", timeout=30)
        for _ in range(4):
            mark = len(service.log())
            next(p for p in service.find("/upscale/") if "stub" in p.name()).kill()
            service.wait_for_log("everything is up again", after=mark, timeout=BACK_WITHIN)
        assert service.log().count("loading upscale again") == 3
        assert service.log().count("starting triton again") == 1
        assert upscale(service).status_code == 200


def test_killed_stub_of_one_family_fails_no_request_of_another(tmp_path: Path) -> None:
    models = link_models(tmp_path / "repository", *MODELS, *PICTURES)
    quick = {"prompt": "a cat", "steps": 2, "width": 64, "height": 64}
    with running_service(tmp_path, model_repository=models) as service, httpx.Client(base_url=service.url) as http:
        service.wait_for_log("Darkroom is ready", timeout=30)
        codes, refused = [], False
        victim = next(p for p in service.find("/realesrgan_animevideov3_x2/") if "stub" in p.name())
        for number in range(20):
            if number == 2:
                victim.kill()
                killed, mark = time.monotonic(), len(service.log())
            codes.append(http.post("/generate", json=quick, timeout=120).status_code)
            health = http.get("/health")
            if health.status_code == 503:
                refused = True
                assert http.get("/health/sd15").status_code == 200
                families = health.json()["families"]
                assert (families["sd15"]["ready"], families["upscale"]["ready"]) == (True, False)
                refusals = upscale(service).status_code, http.get("/api/health").status_code
                assert refusals == (503, 503) or http.get("/health").status_code == 200  # it works again by now
        while not refused:
            refused = http.get("/health").status_code == 503
            assert time.monotonic() - killed < BACK_WITHIN
        service.wait_for_log("everything is up again", after=mark, timeout=BACK_WITHIN)
        assert time.monotonic() - killed < BACK_WITHIN
        assert codes == [200] * 20
        assert "starting triton again" not in service.log()


@pytest.mark.heavy
def test_family_that_stays_broken_does_not_keep_the_others_down(tmp_path: Path) -> None:
    """Its pipeline loads, but fails at every request."""
    models = link_models(tmp_path / "repository", *MODELS, *PICTURES[1:])
    broken = models / "sd15"
    shutil.copytree(ROOT / "model_repository" / "sd15", broken)
    (broken / "1" / "model.py").write_text("class TritonPythonModel:\n    pass\n")
    with running_service(tmp_path, model_repository=models, wait=False) as service:
        service.wait_for_log("The other families go on", timeout=300)
        assert service.log().count("starting triton again") == 1
        mark = len(service.log())
        assert upscale(service).status_code == 200
        assert httpx.get(f"{service.url}/health/sd15").status_code == 503
        service.wait_for_log("again, the others go on", after=mark, timeout=60)
        assert upscale(service).status_code == 200
        assert service.log().count("starting triton again") == 1


def test_supervisor_notices_a_hanging_stub_by_its_canary(tmp_path: Path, repository: Path) -> None:
    """It is alive, its model is "ready", and it answers nothing: it is loaded again once, not several times."""
    with running_service(tmp_path, model_repository=repository, canary_interval=1, canary_timeout=3) as service:
        service.wait_for_log("Darkroom is ready", timeout=30)
        next(p for p in service.find("/realesrgan_animevideov3_x2/") if "stub" in p.name()).suspend()
        service.wait_for_log("realesrgan_animevideov3_x2 does not work: a small inference on", timeout=40)
        service.wait_for_log("everything is up again", timeout=BACK_WITHIN)
        time.sleep(2)
        assert service.log().count("loading realesrgan_animevideov3_x2 again") == 1
        assert "restarting it" not in service.log()
        assert upscale(service).status_code == 200


@pytest.mark.heavy
def test_supervisor_does_not_take_a_busy_server_for_a_broken_one(tmp_path: Path) -> None:
    """Canaries wait behind steps of pictures for longer than they may take, again and again, while the steps go on."""
    models = link_models(tmp_path / "repository", "sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder")
    # A batch takes 0.4 to 3 s, and enough of them wait that a canary's turn takes 12 s and more to come.
    limits = {"canary_interval": 1, "canary_timeout": 8, "max_concurrent_tasks": 32}
    large = {"operation": "generate", "prompt": "a cat", "width": 512, "height": 512, "steps": 150}
    with (
        running_service(tmp_path, model_repository=models, **limits) as service,
        httpx.Client(base_url=service.url, timeout=60) as http,
    ):
        ids = [http.post("/tasks", json=large).raise_for_status().json()["task_id"] for _ in range(32)]
        for _ in range(3):
            service.wait_for_log("behind other work", after=len(service.log()), timeout=120)
            assert http.get("/health").status_code == 200
        assert "again" not in service.log()
        for id in ids:
            assert http.delete(f"/tasks/{id}").status_code == 200


def test_request_that_loses_triton_is_503_with_retry_after(service: RunningService) -> None:
    answers: list[httpx.Response] = []
    worker = threading.Thread(target=lambda: answers.append(upscale(service, 512, model="animevideov3-x4", tile=64)))
    mark = len(service.log())
    worker.start()
    time.sleep(1)
    service.find("bin/tritonserver")[0].kill()
    worker.join(60)
    assert answers[0].status_code == 503
    assert int(answers[0].headers["retry-after"]) > 0
    service.wait_for_log("everything is up again", after=mark, timeout=BACK_WITHIN)


def test_killed_server_leaves_no_files(service: RunningService) -> None:
    port = service.grpc.rsplit(":", 1)[1]
    regions = list(Path("/dev/shm").glob(f"darkroom_{port}_*"))
    assert 0 < len(regions) <= len(MODELS) * 2, "regions of servers that were killed above"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.heavy)])
def test_supervisor_drains(tmp_path: Path, repository: Path, number: signal.Signals) -> None:
    """Accepted work finishes, new work gets 503, the exit code is 0, and nothing stays behind."""
    with running_service(tmp_path, model_repository=repository) as service:
        answers: list[httpx.Response] = []
        worker = threading.Thread(target=lambda: answers.append(upscale(service, 512, model="animevideov3-x4")))
        worker.start()
        while httpx.get(f"{service.url}/health").json()["active_tasks"] == 0:
            time.sleep(0.02)
        tree, regions = service.tree(), f"darkroom_{service.grpc.rsplit(':', 1)[1]}_*"
        assert list(Path("/dev/shm").glob(regions))
        service.process.send_signal(number)
        while True:
            late = upscale(service)
            if late.status_code == 503:
                break
            time.sleep(0.02)
        assert int(late.headers["retry-after"]) > 0
        worker.join(60)
        assert answers[0].status_code == 200
        assert service.process.wait(60) == 0
        assert not [p for p in tree if p.is_running() and p.status() != "zombie"]
        assert not list(Path("/dev/shm").glob(regions))
        assert (tmp_path / "logs" / "triton.log").stat().st_size > 0
        assert "drained" in (tmp_path / "logs" / "proxy.log").read_text()


def test_children_end_when_the_supervisor_is_killed(tmp_path: Path, repository: Path) -> None:
    with running_service(tmp_path, model_repository=repository) as service:
        tree = service.tree()
        service.process.kill()
        deadline = time.monotonic() + 30
        while [p for p in tree[1:] if p.is_running() and p.status() != "zombie"]:
            assert time.monotonic() < deadline, [p.cmdline() for p in tree if p.is_running()]
            time.sleep(0.2)


def _serve(folder: Path, *options: str, timeout: float = 60, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run `darkroom serve` when it is expected to refuse."""
    defaults = {"port": free_port(), "triton_grpc_port": free_port(), "triton_metrics_port": free_port()}
    defaults |= {"host": "127.0.0.1", "state_dir": folder / "state", "log_dir": folder / "logs"}
    env = os.environ | {name.upper(): str(value) for name, value in (defaults | settings).items()}
    command = [str(Path(sys.executable).with_name("darkroom")), "serve", *options]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def _one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1
    assert "Traceback" not in result.stderr + result.stdout
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert all(word in line for word in words), line


def test_serve_refuses_a_taken_port(tmp_path: Path, repository: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = _serve(tmp_path, model_repository=repository, port=port)
    _one_sentence(result, str(port), "taken", "PORT")


def test_serve_refuses_an_unexported_model(tmp_path: Path) -> None:
    model = tmp_path / "repository" / "realesrgan_x4plus"
    model.mkdir(parents=True)
    shutil.copy(ROOT / "model_repository" / model.name / "config.pbtxt", model)
    _one_sentence(_serve(tmp_path, model_repository=model.parent), "realesrgan_x4plus", "python -m exporters prepare")


def test_serve_refuses_a_broken_model(tmp_path: Path, repository: Path) -> None:
    broken = tmp_path / "repository"
    shutil.copytree(repository, broken)
    (broken / MODELS[1] / "1" / "model.onnx").write_bytes(b"not an onnx file")
    _one_sentence(_serve(tmp_path, model_repository=broken), MODELS[1])


def test_serve_refuses_an_empty_repository(tmp_path: Path) -> None:
    _one_sentence(_serve(tmp_path, model_repository=tmp_path), "python -m exporters config")


@pytest.mark.parametrize(("name", "value"), [("port", "99999"), ("upscale_tile", "5"), ("task_timeout", "soon")])
def test_serve_refuses_a_wrong_setting(tmp_path: Path, name: str, value: str) -> None:
    _one_sentence(_serve(tmp_path, **{name: value}), name.upper(), value)


def test_serve_names_a_missing_libpython() -> None:
    with pytest.raises(SetupError, match=r"libpython3\.99\.so.*apt install libpython3\.99"):
        libpython_folder(99)


def test_doctor_finds_this_machine_fit(tmp_path: Path) -> None:
    env = os.environ | {"PORT": str(free_port()), "STATE_DIR": str(tmp_path)}
    command = [str(Path(sys.executable).with_name("darkroom")), "doctor"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "problem" not in result.stdout


def test_doctor_says_what_to_fix(tmp_path: Path) -> None:
    env = os.environ | {"MODEL_REPOSITORY": str(tmp_path), "STATE_DIR": str(tmp_path), "PORT": str(free_port())}
    command = [str(Path(sys.executable).with_name("darkroom")), "doctor"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, "nothing that ./start.sh would not fix itself"
    assert "python -m exporters config" in " ".join(result.stdout.split())
    assert "see the warnings" in result.stdout


def test_doctor_knows_which_sqlite_suits_which_python(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert [_tasks(settings, python, sqlite).state for python, sqlite in SQLITES] == ["ok", "problem", "ok"]
    elsewhere = Settings(state_dir=tmp_path, database_url="postgresql://darkroom@localhost/darkroom")
    assert _tasks(elsewhere, (3, 12), "3.40.1").state == "ok"


SQLITES = (((3, 11, 7), "3.40.1"), ((3, 12, 1), "3.40.1"), ((3, 12, 3), "3.45.1"))


def test_serve_refuses_devices_that_are_missing(tmp_path: Path) -> None:
    _one_sentence(_serve(tmp_path, "-t", "npu", "-c", "8"), "HIDREAM_DEVICE_TYPE", "torch_npu")


def test_serve_exports_a_checkpoint_before_the_start(tmp_path: Path) -> None:
    """Here that fails, as there is nothing in the folder, and nothing is served."""
    (tmp_path / "HiDream-I1-Full").mkdir()
    options = ("-m", "HiDream-I1-Full", "-p", str(tmp_path))
    result = _serve(tmp_path, *options, num_gpus_to_use=0, timeout=300)
    _one_sentence(result, "HiDream-I1-Full", "model_index.json")
    assert "Darkroom is ready" not in result.stdout
