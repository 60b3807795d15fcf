"""What a killed service leaves in /dev/shm and /tmp, real servers: the next start removes it, whatever its port."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from tests.pictures import encoded, photo
from tests.service import RunningService, link_models, running_service

MODELS = ("upscale", "realesrgan_animevideov3_x2", "realesrgan_animevideov3_x4")


def _regions(service: RunningService) -> set[Path]:
    return set(Path("/dev/shm").glob(f"darkroom_{service.grpc.rsplit(':', 1)[1]}_*"))


def _environments(service: RunningService) -> set[Path]:
    """The folders that its server made: before its first stub, but after it had started itself."""
    stubs = [process.create_time() for process in service.tree() if process.name().startswith("triton_python")]
    first = service.find("bin/tritonserver")[0].create_time()
    found = Path("/tmp").glob("python_env_*")
    return {path for path in found if first - 1 < path.stat().st_mtime < min(stubs)}


def _may_be_of_others(environment: Path, *services: RunningService) -> bool:
    """Whether a tritonserver that is not this test's was there when the folder was made, and lives: then it has to stay
    for as long as that one loads its models. On a machine of one's own there is none."""
    ours = {process.pid for service in services for process in service.find("bin/tritonserver")}
    others = [p for p in psutil.process_iter() if p.name() == "tritonserver" and p.pid not in ours]
    return any(other.create_time() - 3 < environment.stat().st_mtime for other in others if other.is_running())


def _kill(service: RunningService) -> None:
    """SIGKILL to all of it, the supervisor first, which would start the rest again."""
    processes = service.tree()
    for process in processes:
        process.kill()
    service.process.wait()
    psutil.wait_procs(processes, timeout=60)


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_leftovers_of_a_killed_service_go_at_the_next_start_and_those_of_a_neighbour_stay(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("neighbour", "killed", "next")]
    for folder in folders:
        folder.mkdir()
    repository = link_models(tmp_path / "repository", *MODELS)
    with running_service(folders[0], model_repository=repository) as neighbour:
        kept = _regions(neighbour) | _environments(neighbour)
        assert len(_regions(neighbour)) == len(MODELS)
        assert _environments(neighbour)
        # The start times of processes are known to a second or two.
        ready = time.time()
        _until(lambda: time.time() > ready + 2)
        with running_service(folders[1], model_repository=repository) as killed:
            left = _regions(killed) | _environments(killed)
            assert len(_regions(killed)) == len(MODELS)
            assert _environments(killed)
            _kill(killed)
            assert all(path.exists() for path in left)
            left -= {path for path in left if path.parent.name == "tmp" and _may_be_of_others(path, neighbour)}
        with running_service(folders[2], model_repository=repository, wait=False) as service:
            _until(lambda: not any(path.exists() for path in left) or service.process.poll() is not None)
            service.wait_healthy(300)
            assert not any(path.exists() for path in left)
            assert all(path.exists() for path in kept)
        files = {"file": encoded(photo(0, 0, 32, 32))}
        answer = httpx.post(f"{neighbour.url}/api/upscale", files=files, data={"model": "animevideov3-x2"}, timeout=300)
        assert answer.status_code == 200
        assert all(path.exists() for path in kept)
