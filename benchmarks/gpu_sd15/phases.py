"""The phases: make a checkpoint and export it, measure the service, measure diffusers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.clients import Answer, Rest, closed_loop
from benchmarks.errors import BenchmarkError
from benchmarks.gpu_sd15.plan import CLIENTS, COMPILED, EAGER, OURS, QUICK, Case, Counts, Work
from benchmarks.machine import ROOT
from benchmarks.processes import Server
from benchmarks.sd15.checkpoints import write_checkpoint
from benchmarks.sd15.jobs import content, pictures
from benchmarks.subjects import measured_service, running_baseline
from darkroom.pipelines.sd15.networks import UNET, specs
from exporters.config import Placement, write_configs

Say = Callable[[str], None]

_START_SECONDS = 400.0  # of a service whose networks have 2 GB and more
_BATCH_ROUNDS = 2


def prepare(work: Work, case: Case, say: Say) -> None:
    """Checkpoint, exports and configs; what is there already is left alone.

    :raises BenchmarkError: there is no such device, or the export fails.
    """
    if case.device == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError("torch sees no CUDA device here; --tiny tries everything on a CPU.")
    work.set_case(case)
    if not work.checkpoint.is_dir():
        made = work.checkpoint.with_name("checkpoint.partial")
        shutil.rmtree(made, ignore_errors=True)
        dtype = torch.float16 if case.precision == "fp16" else torch.float32
        write_checkpoint(
            made, size=case.size, dtype=dtype, device=case.device, report=lambda part: say(f"checkpoint: {part}")
        )
        made.rename(work.checkpoint)
    say("export")
    where = ["--checkpoint", str(work.checkpoint.absolute()), "--output", str(work.repository.absolute())]
    command = [sys.executable, "-m", "exporters", "sd15", *where, "--precision", case.precision]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise BenchmarkError("the export failed; its own words are above.")
    there = [spec for spec in specs() if (work.repository / spec.name / "1").is_dir()]
    write_configs(work.repository, there, Placement(gpus=(0,) if case.device == "cuda" else ()))
    say(f"prepared: {', '.join(spec.name for spec in there)}")


def measure_darkroom(work: Work, counts: Counts, say: Say) -> None:
    """Start the real service on the exported networks and measure it; the result is kept in `work`.

    :raises BenchmarkError: it does not come up, or its networks do not run on the device of the case.
    """
    case = work.case()
    say("starting the service")
    logs = work.logs(OURS)
    with measured_service(repository=work.repository, logs=logs, start_seconds=_START_SECONDS) as service:
        provider = service.provider(UNET.name)  # None in NVIDIA's container, whose backend does not say
        say(f"up; {UNET.name} runs on {provider or 'an unnamed provider'}")
        if case.device == "cuda" and provider == "CPUExecutionProvider":
            raise BenchmarkError(f"{UNET.name} runs on the CPU; {logs}/triton.log says why.")
        _warm_up(service, work, OURS, counts, say)
        alone = _alone(service, case, counts, say)
        before = service.counts(UNET.name)
        together = _together(service, case, counts, say)
        shared = service.counts(UNET.name).since(before).rows_per_execution
        triton = service.version()
    server = {"provider": provider, "triton": triton, "rows_per_execution": shared}
    work.write(OURS, {"quick": counts == QUICK, **server, "alone": alone, "together": together})
    say(f"kept: {OURS}.json")


def measure_diffusers(work: Work, counts: Counts, say: Say, *, compile_mode: str | None, batch: bool) -> None:
    """Start the baseline, eager or compiled, and measure it; the result is kept in `work`.

    :param batch: also measure CLIENTS images as one batch, which the service that is replaced never had.
    :raises BenchmarkError: it does not come up.
    """
    case, name = work.case(), EAGER if compile_mode is None else COMPILED
    options = ["--device", case.device, "--dtype", "float16" if case.precision == "fp16" else "float32"]
    if compile_mode is not None:
        options += ["--compile", compile_mode]
    say(f"starting {name}")
    with running_baseline(work.checkpoint, *options, logs=work.logs(name), start_seconds=_START_SECONDS) as server:
        say("up" if compile_mode is None else "up; the first job compiles")
        _warm_up(server, work, name, counts, say)
        result: dict[str, Any] = {"quick": counts == QUICK, "compile_mode": compile_mode}
        result["alone"] = _alone(server, case, counts, say)
        result["together"] = _together(server, case, counts, say)
        work.write(name, result)
        if batch:
            work.write(name, {**result, "batch": _batches(server, case, say)})
    say(f"kept: {name}.json")


def _warm_up(server: Server, work: Work, name: str, counts: Counts, say: Say) -> None:
    """Some jobs alone, then as many at once as there will be; keeps the image of the first job."""
    jobs = work.case().jobs(max(counts.warmups, CLIENTS))
    with Rest(server) as rest:
        for job in jobs[: counts.warmups]:
            began = time.perf_counter()
            picture = pictures(rest.generate(job.body()))[0]
            say(f"warm-up: {time.perf_counter() - began:.2f} s")
            if job == jobs[0]:
                work.picture(name).write_bytes(picture)
    closed_loop(server, [job.post() for job in jobs[:CLIENTS]], clients=CLIENTS)
    say(f"warm-up: {CLIENTS} at once")


def _alone(server: Server, case: Case, counts: Counts, say: Say) -> list[dict[str, float]]:
    answers = closed_loop(server, [job.post() for job in case.jobs(counts.alone)], clients=1)
    say(f"{counts.alone} jobs, one at a time")
    return [_times(answer) for answer in answers]


def _together(server: Server, case: Case, counts: Counts, say: Say) -> dict[str, Any]:
    posts = [job.post() for job in case.jobs(counts.together)]
    began = time.perf_counter()
    answers = closed_loop(server, posts, clients=CLIENTS)
    seconds = time.perf_counter() - began
    say(f"{counts.together} jobs of {CLIENTS} clients: {counts.together / seconds:.2f} images/s")
    return {"seconds": seconds, "jobs": [_times(answer) for answer in answers]}


def _batches(server: Server, case: Case, say: Say) -> list[dict[str, float]]:
    body = case.jobs(1)[0].body() | {"num_images": CLIENTS}
    posts = [lambda http: http.post("/generate", json=body)] * (1 + _BATCH_ROUNDS)
    answers = closed_loop(server, posts, clients=1)
    say(f"{_BATCH_ROUNDS} batches of {CLIENTS}")
    return [_times(answer) for answer in answers[1:]]


def _times(answer: Answer) -> dict[str, float]:
    """Seconds of a job for its client, and inside the server where that tells."""
    return {"seconds": answer.seconds, **content(answer).get("timings", {})}
