"""NVIDIA's perf_analyzer at the models themselves: it knows nothing of the proxy."""

from __future__ import annotations

import base64
import csv
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.context import Context
from benchmarks.errors import BenchmarkError
from benchmarks.local import Local, photo
from benchmarks.machine import ROOT
from benchmarks.results import Cell, Section, Table
from benchmarks.service import RunningService
from darkroom.pipelines.upscale.networks import PIPELINE, choose

MODEL = "animevideov3"

_LIBRARY_FOLDER = ROOT / ".darkroom" / "perf-libs"
# Names that the program asks for -> names of the copies inside the nvidia-pytriton wheel, where a hash is added.
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of its CSV report: requests per second, and milliseconds to the last response of a request."""

    concurrency: int
    throughput: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to load: options for a model, and how many requests."""

    model: str
    options: tuple[str, ...]
    requests: int


COLUMNS = ("model", "concurrency", "requests", "requests/s", "p50 ms", "p95 ms", "p99 ms", "rows per execution")
NOTE = (
    "A fixed number of requests, because windows that must agree with each other may never end on a shared "
    "machine. Latency is up to the last response. Rows per execution are Triton's counters of the network. "
    "perf_analyzer counts whole seconds, so requests/s of a run of few seconds are too low."
)


def run(context: Context) -> Section:
    """Throughput, latency and batch sharing of the network and of the pipeline around it."""
    data = photo()
    tile = Local(MODEL).tiles(data)[0]
    network = choose(MODEL, None).model_name
    shape = ",".join(str(n) for n in tile.shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        request = Path(folder, "request.json")
        request.write_text(request_data(data, MODEL))
        targets = (
            Target(model=network, options=("--shape", f"image:{shape}"), requests=context.choose(40, 6)),
            Target(
                model=PIPELINE.name,
                options=("--async", "--streaming", "--input-data", str(request)),
                requests=context.choose(20, 3),
            ),
        )
        rows = measure(context, targets, levels=(1, 2) if context.quick else (1, 2, 4), network=network)
    table = Table(
        title=f"Tiles of {shape} at the network; whole 512x512 photos at the pipeline ({MODEL})",
        columns=COLUMNS,
        rows=rows,
        note=NOTE,
    )
    return Section(name="perf_analyzer", title="perf_analyzer at Triton's gRPC", tables=(table,))


def measure(
    context: Context, targets: Sequence[Target], *, levels: Sequence[int], network: str
) -> tuple[tuple[Cell, ...], ...]:
    """A row of COLUMNS for each target at each concurrency; one that fails says so and the others go on.

    :param network: whose executions are counted.
    :raises BenchmarkError: perf_analyzer does not run here.
    """
    binary, environment = find()
    rows: list[tuple[Cell, ...]] = []
    runs = [(target, level) for target in targets for level in levels]
    service = context.service
    context.stage("perf_analyzer", len(runs))
    for done, (target, level) in enumerate(runs, 1):
        command = [binary, *target.options, "-m", target.model, "--request-count", str(target.requests)]
        before = service.counts(network)
        try:
            measured = _measure(command, level, service, environment)
        except BenchmarkError as error:
            rows.append((target.model, level, f"not run: {error}", None, None, None, None, None))
            continue
        shared = service.counts(network).since(before).rows_per_execution
        latencies = (measured.p50, measured.p95, measured.p99)
        rows.append((target.model, level, target.requests, measured.throughput, *latencies, shared))
        context.step(done)
    return tuple(rows)


def request_data(image: bytes, model: str) -> str:
    """The --input-data file: one request of the pipeline."""
    content = {"b64": base64.b64encode(image).decode(), "shape": [len(image)]}
    return json.dumps({"data": [{"image": content, "model": [model]}]})


def parse_csv(text: str) -> Measured:
    """The report of a run at one concurrency. Columns differ between kinds of models and go by their names.

    :raises BenchmarkError: it has no line of numbers.
    """
    lines = list(csv.DictReader(io.StringIO(text)))
    if not lines:
        raise BenchmarkError("perf_analyzer wrote an empty report.")
    line = lines[-1]
    p50, p95, p99 = (float(line[f"p{percent} latency"]) / 1000 for percent in (50, 95, 99))  # from microseconds
    return Measured(
        concurrency=int(line["Concurrency"]), throughput=float(line["Inferences/Second"]), p50=p50, p95=p95, p99=p99
    )


def find() -> tuple[str, dict[str, str]]:
    """The program and the environment to run it in.

    The one in the tritonclient wheel needs two libraries that not every system has; the nvidia-pytriton wheel
    brings both under other names, so links with the right names are put into a folder of ours.

    :raises BenchmarkError: it is not there, or does not run here; says why.
    """
    beside = Path(sys.executable).with_name("perf_analyzer")
    binary = str(beside) if beside.exists() else shutil.which("perf_analyzer")
    if binary is None:
        raise BenchmarkError("perf_analyzer is not installed (the wheel of tritonclient for Linux brings it).")
    search = os.pathsep.join(filter(None, [str(_linked_libraries()), os.environ.get("LD_LIBRARY_PATH", "")]))
    environment = os.environ | {"LD_LIBRARY_PATH": search}
    try:
        trial = subprocess.run([binary, "--version"], env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BenchmarkError(f"perf_analyzer does not start: {error.strerror}.") from error
    if trial.returncode != 0:
        raise BenchmarkError(f"perf_analyzer does not start: {_last_line(trial.stderr)}")
    return binary, environment


def _linked_libraries() -> Path:
    _LIBRARY_FOLDER.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.find_spec("pytriton")  # found, not imported: importing it starts threads
    places = list(spec.submodule_search_locations or ()) if spec else []
    for name, pattern in _LIBRARIES.items():
        found = [path for place in places for path in Path(place).with_name("nvidia_pytriton.libs").glob(pattern)]
        link = _LIBRARY_FOLDER / name
        link.unlink(missing_ok=True)
        if found:
            link.symlink_to(found[0])
    return _LIBRARY_FOLDER


def _measure(command: list[str], concurrency: int, service: RunningService, environment: dict[str, str]) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.csv")
        where = ["-u", service.grpc, "-i", "grpc", "--concurrency-range", str(concurrency), "-f", str(report)]
        done = subprocess.run([*command, *where], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not report.exists():
            raise BenchmarkError(f"perf_analyzer failed: {_last_line(done.stderr or done.stdout)}")
        return parse_csv(report.read_text())


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
