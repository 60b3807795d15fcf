"""GET /metrics of the real service after some requests, and a real Prometheus with our dashboard and alerts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.dashboard import panels_of
from darkroom.pipelines.sd15 import networks
from darkroom.serving.lora_layout import LoraLayout
from darkroom.serving.measures import MEASURES, UNBATCHED
from proxy.metrics.measures import Measures
from tests.contract.generating import QUICK
from tests.contract.tasks import finished, submit
from tests.lora_matrices import make_lora, write_diffusers_file
from tests.pictures import encoded, photo
from tests.prometheus import alerts, metrics_in, promtool, queries, running_prometheus
from tests.service import ROOT, RunningService
from tests.waiting import until

SD15, UPSCALE, UNET = "sd15", "upscale", networks.UNET.name
STEPS = 4
SAMPLER = {"scheduler": "ddim"}
"""One call of the network for each step; the default one makes one more."""
SECONDS = 240
PUBLISHED = 2.0
"""Seconds between two publications of the models."""
NEED_A_POLICY = {"darkroom_policy_decisions_total"}
NEED_EVICTIONS = {"darkroom_network_lora_evictions_total"}
"""Metrics that have series only after what this load does not do; tests of their own have them."""
LORA = "of-the-metrics"

Labels = dict[str, str]


class Read:
    """The samples of one reading."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= {**sample.labels}.items()
        )


def read(service: RunningService) -> Read:
    answer = httpx.get(f"{service.url}/metrics", timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Read(answer.text)


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=300) as client:
        yield client


@pytest.fixture(scope="module")
def lora(client: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a LoRA in the library."""
    layout = LoraLayout.read(ROOT / "model_repository" / UNET / "1")
    assert layout is not None, "run: python -m exporters sd15"
    file = write_diffusers_file(make_lora([layout], 4, 1)["unet"], layout, tmp_path_factory.mktemp("lora") / LORA)
    client.post("/loras", files={"file": (f"{LORA}.safetensors", file.read_bytes())}).raise_for_status()
    yield LORA
    client.delete(f"/loras/{LORA}").raise_for_status()


def generate(client: httpx.Client, **fields: Any) -> int:
    return client.post("/generate", json={**QUICK, **SAMPLER, "steps": STEPS, **fields}).status_code


def load(client: httpx.Client, lora: str) -> None:
    """Some requests of every kind."""
    with ThreadPoolExecutor(8) as pool:
        sizes = [64, 64, 64, 96]
        assert set(pool.map(lambda size: generate(client, width=size), sizes)) == {200}
    assert generate(client, loras=[{"name": lora}]) == 200
    events = {"accept": "text/event-stream"}
    stream = client.post("/generate", json={**QUICK, **SAMPLER, "steps": STEPS, "preview_every": 1}, headers=events)
    assert "preview" in stream.text
    picture = {"file": ("in.png", encoded(photo(200, 60, 48, 40)))}
    client.post("/api/upscale", files=picture, data={"model": "animevideov3-x2"}).raise_for_status()
    finished(client, submit(client, **SAMPLER, preview_every=1)["task_id"])
    assert generate(client, steps=-1) == 422
    assert client.post("/v1/images/generations", json={"prompt": "a cat", "size": "nonsense"}).status_code == 400
    assert client.get("/no/such/path").status_code == 404


def settled(service: RunningService) -> Read:
    """A reading after the models have published all that they have done, which takes them two seconds."""
    last, since = read(service), time.monotonic()

    def unchanged() -> bool:
        nonlocal last, since
        found = read(service)
        if of_models(found) != of_models(last):
            last, since = found, time.monotonic()
        return time.monotonic() - since > 2 * PUBLISHED

    until(unchanged)
    return last


def of_models(found: Read) -> list[tuple[str, float]]:
    """What the models have published."""
    return [(str(sample.labels), sample.value) for sample in found.samples if "process" in sample.labels]


@pytest.fixture(scope="module")
def before_and_after(service: RunningService, client: httpx.Client, lora: str) -> tuple[Read, Read]:
    """Readings around one load."""
    before = settled(service)
    load(client, lora)
    return before, settled(service)


def test_values_after_some_requests(before_and_after: tuple[Read, Read]) -> None:
    before, after = before_and_after

    def added(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    work = {"operation": "generate", "model": SD15}
    assert added("darkroom_requests_total", surface="native", outcome="done", **work) == 6
    assert added("darkroom_requests_total", surface="native", outcome="accepted", **work) == 1
    assert added("darkroom_requests_total", surface="native", outcome="invalid_input", **work) == 1
    assert added("darkroom_requests_total", operation="upscale", model=UPSCALE, outcome="done") == 1
    assert added("darkroom_request_seconds_count", **work) == 6
    assert added("darkroom_queue_wait_seconds_count", kind="direct") == 7
    assert added("darkroom_queue_wait_seconds_count", kind="task") == 1
    assert added("darkroom_first_preview_seconds_count", **work) == 2
    assert added("darkroom_images_total", **work) == 7
    assert added("darkroom_tasks_ended_total", operation="generate", outcome="completed") == 1
    assert added("darkroom_http_requests_total", route="/generate", status="200", method="POST") == 6
    assert added("darkroom_http_requests_total", route="unknown", status="404") == 1
    assert added("darkroom_http_requests_total", surface="openai", status="400") == 1
    assert added("darkroom_tasks", state="completed") == 1
    assert added("darkroom_step_seconds_count", model=SD15, size="256") == 6 * STEPS + 2
    for stage in ("encode", "denoise", "decode", "write"):
        assert added("darkroom_stage_seconds_count", model=SD15, stage=stage) == 7
    for stage in ("read", "enlarge", "write"):
        assert added("darkroom_stage_seconds_count", model=UPSCALE, stage=stage) == 1
    assert added("darkroom_tile_seconds_count", model=UPSCALE) == 1


def test_rows_and_why_calls_ran_alone(before_and_after: tuple[Read, Read]) -> None:
    before, after = before_and_after

    def added(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    steps = 6 * STEPS + 2
    rows, executions = (added(f"darkroom_network_batch_rows_{part}", model=UNET) for part in ("sum", "count"))
    assert rows == 2 * steps, "two rows for each step, as the requests are guided"
    assert executions == added("darkroom_network_run_seconds_count", model=UNET)
    alone = added("darkroom_network_unbatched_total", model=UNET)
    assert 0 < alone <= executions <= steps
    assert executions - alone <= (steps - alone) / 2, "every other execution had at least two calls"
    again = 1  # a LoRA that the network lacks is sent, and the call made again
    assert steps <= added("darkroom_network_calls_total", network=UNET) <= steps + again
    assert added("darkroom_network_calls_total", network=UNET, company="none") > 0
    assert added("darkroom_network_call_seconds_count", network=UNET) == steps
    assert steps <= added("darkroom_turn_wait_seconds_count", network=UNET) <= steps + again
    assert after.value("darkroom_network_lora_slots", model=UNET) >= 1
    assert after.value("darkroom_network_lora_bytes", model=UNET) > 0


def test_every_family_is_there_with_few_labels(before_and_after: tuple[Read, Read], service: RunningService) -> None:
    _, after = before_and_after
    own = {family.name for family in Measures().registry.collect()} - {"darkroom_policy_decisions"}
    of_models = {measure.name.removesuffix("_total") for measure in MEASURES} - {"darkroom_network_lora_evictions"}
    state = "ready draining triton_metrics_up tasks tasks_readable running slots queue_length restarts"
    looked_at = {f"darkroom_{name}" for name in (*state.split(), "device_memory_bytes", "policy_problems")}
    nvidia = {"nv_inference_count", "nv_inference_exec_count", "nv_inference_queue_duration_us"}
    assert own | of_models | looked_at | nvidia <= set(after.families)
    assert UNBATCHED.name in {sample.name for sample in after.samples}
    assert after.value("darkroom_triton_metrics_up") == after.value("darkroom_tasks_readable") == 1
    assert {sample.labels["kind"] for sample in after.families["darkroom_restarts"].samples} == {
        "triton",
        "proxy",
        "model",
    }
    assert "cat on a blue" not in after.text
    assert service.url not in after.text
    assert len([sample for sample in after.samples if sample.name.startswith("darkroom_")]) < 10_000


def test_promtool_accepts_the_text(before_and_after: tuple[Read, Read]) -> None:
    _, after = before_and_after
    done = promtool("check", "metrics", text=after.text)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("nv_")]
    assert done.returncode in (0, 3), complaints  # 3: of Triton's own names
    assert complaints == []


def test_prometheus_answers_every_query(
    service: RunningService, client: httpx.Client, lora: str, tmp_path: Path
) -> None:
    begun = time.time()
    with running_prometheus(tmp_path, service.url.removeprefix("http://")) as prometheus:
        until(lambda: prometheus.ask('up{job="darkroom"} == 1'))
        load(client, lora)
        until(lambda: prometheus.ask("darkroom_network_lora_loads_total"))
        load(client, lora)
        wanted = [query for query in queries() if not metrics_in(query) & NEED_A_POLICY]
        assert len(wanted) > 25
        for query in wanted:
            until(lambda query=query: prometheus.ask(query), SECONDS)  # type: ignore[misc]
        for rule in alerts():
            for name in metrics_in(rule["expr"]):
                assert prometheus.ask(f"count({name})"), (rule["alert"], name)
            prometheus.ask(rule["expr"])
        until(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()))
        firing = {rule["name"] for rule in prometheus.rules() if rule["state"] == "firing"}
        assert firing == set()
        drawn = panels_of(prometheus, begun, time.time())
    without_lines = {panel.title for panel in drawn if not panel.row and not panel.lines}
    assert without_lines <= {"Decisions of the content policy", "Training"}
