"""A picture of the dashboard of Grafana, from a real load of some minutes: docs/images/dashboard.png.

python -m benchmarks.dashboard
"""

from __future__ import annotations

import json
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import httpx

from benchmarks.dashboard_drawing import Line, Panel, draw
from benchmarks.local import photo
from benchmarks.machine import ROOT
from benchmarks.prometheus import Prometheus, running_prometheus
from benchmarks.service import link_models, running_service

PICTURE = ROOT / "docs" / "images" / "dashboard.png"
DASHBOARD = ROOT / "docker" / "grafana" / "darkroom.json"
_MODELS = (
    *("sd15", "sd15_text_encoder", "sd15_unet", "sd15_vae_decoder", "sd15_vae_encoder"),
    *("upscale", "realesrgan_animevideov3_x2", "realesrgan_animevideov3_x4"),
)
_WINDOW = "30s"
"""What Grafana's variable stands for: with a reading each second half a minute is smooth enough."""
_POINTS = 240
_PROMPTS = ("an owl in a forest", "a red car at night", "a boat on a lake", "a knight with a rifle")
_SIZES = (64, 64, 128, 128, 192)
_LABEL = re.compile(r"\{\{(\w+)\}\}")
_PREVIEWS = {"accept": "text/event-stream"}

Send = Callable[[httpx.Client, random.Random], object]


def _generate(http: httpx.Client, chance: random.Random) -> None:
    http.post("/generate", json=_picture(chance))


def _generate_with_previews(http: httpx.Client, chance: random.Random) -> None:
    http.post("/generate", json=_picture(chance) | {"preview_every": 2}, headers=_PREVIEWS)


def _upscale(http: httpx.Client, chance: random.Random) -> None:
    model = chance.choice(("animevideov3-x2", "animevideov3-x4"))
    size = chance.choice((64, 96, 128))
    http.post("/api/upscale", files={"file": ("photo.png", photo(size))}, data={"model": model})


def _tasks(http: httpx.Client, chance: random.Random) -> None:
    """A burst of tasks, and a look at them now and then until all have ended."""
    ids = [http.post("/tasks", json=_picture(chance) | {"operation": "generate"}).json()["task_id"] for _ in range(6)]
    while any(http.get(f"/tasks/{one}").json()["status"] in ("queued", "processing") for one in ids):
        time.sleep(1)


def _mistakes(http: httpx.Client, chance: random.Random) -> None:
    http.post("/generate", json={"prompt": "a cat", "steps": chance.choice((-1, 100_000))})
    time.sleep(4)


_KINDS: tuple[Send, ...] = (_generate, _generate, _generate_with_previews, _upscale, _tasks, _mistakes)
"""What the clients send, each one kind, one request after the other."""


def _picture(chance: random.Random) -> dict[str, Any]:
    side = chance.choice(_SIZES)
    return {
        "prompt": chance.choice(_PROMPTS),
        "width": side,
        "height": side,
        "steps": chance.randint(6, 20),
        "seed": chance.randint(0, 1 << 30),
    }


@contextmanager
def _load(url: str) -> Iterator[None]:
    """Clients that come one after the other, and send until the end."""
    over = threading.Event()

    def client(number: int, send: Send, wait: float) -> None:
        chance = random.Random(number)
        with httpx.Client(base_url=url, timeout=300, trust_env=False) as http:
            over.wait(wait)
            while not over.is_set():
                send(http, chance)

    threads = [
        threading.Thread(target=client, args=(number, send, 8.0 * number), daemon=True)
        for number, send in enumerate(_KINDS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def panels_of(prometheus: Prometheus, begun: float, ended: float) -> list[Panel]:
    """The panels of the dashboard, each with what Prometheus answers to its queries."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [_panel(prometheus, panel, begun, ended) for panel in found]


def _panel(prometheus: Prometheus, panel: dict[str, Any], begun: float, ended: float) -> Panel:
    lines: list[Line] = []
    for target in panel.get("targets", []):
        query = target["expr"].replace("$__rate_interval", _WINDOW).replace("$instance", ".*")
        for series in prometheus.over(query, begun, ended, (ended - begun) / _POINTS):
            if series.points:
                points = [(at - begun, value) for at, value in series.points]
                lines.append(Line(label=legend(target["legendFormat"], series.labels), points=points))
    place = panel["gridPos"]
    unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
    row = panel["type"] == "row"
    return Panel(title=panel["title"], unit=unit, row=row, lines=lines, **{name: place[name] for name in "xywh"})


def legend(template: str, labels: dict[str, str]) -> str:
    """A legend as Grafana writes it, without labels that a series lacks. The one proxy is named only where nothing else
    is."""
    known = {**labels, "instance": ""}
    found = _LABEL.sub(lambda match: known.get(match[1], ""), template)
    return " ".join(found.split()) or labels.get("instance", "")


@click.command()
@click.option(
    "--minutes", type=click.FloatRange(0.1, 60), default=4, show_default=True, help="How long the load lasts."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=PICTURE,
    show_default="docs/images/dashboard.png",
    help="The PNG file to write.",
)
def main(minutes: float, output: Path) -> None:
    """Start the service and Prometheus, load the service, and draw the dashboard."""
    with tempfile.TemporaryDirectory(prefix="darkroom-dashboard-") as name, ExitStack() as stack:
        folder = Path(name)
        repository = link_models(folder / "repository", *_MODELS)
        (folder / "service").mkdir()
        service = stack.enter_context(
            running_service(
                folder / "service",
                model_repository=repository,
                policy_file=ROOT / "policies" / "example.yaml",
                max_concurrent_tasks=4,
            )
        )
        prometheus = stack.enter_context(running_prometheus(folder, service.url.removeprefix("http://")))
        begun = time.time()
        with _load(service.url):
            time.sleep(60 * minutes)
            ended = time.time()
        draw(panels_of(prometheus, begun, ended), output)
    click.echo(f"{output}: {output.stat().st_size >> 10} kB")


if __name__ == "__main__":
    main()
