"""The dashboard of Grafana, the config of Prometheus, and the alerts with their runbooks."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from tests.docker.files import DOCKER, ROOT, loaded
from tests.prometheus import CONFIGS, GRAFANA, PROMETHEUS, alerts, metrics_in, panels, promtool, queries


def test_dashboard_is_as_its_source_says() -> None:
    source = runpy.run_path(str(GRAFANA / "make_dashboard.py"))
    assert source["dashboard"]() == json.loads((GRAFANA / "darkroom.json").read_text()), (
        "run: python docker/grafana/make_dashboard.py"
    )


def test_dashboard_has_a_row_for_each_question_and_panels_that_do_not_overlap() -> None:
    found = json.loads((GRAFANA / "darkroom.json").read_text())["panels"]
    rows = [panel["title"] for panel in found if panel["type"] == "row"]
    assert {"Is it slow, and where?", "Are batches full?", "What is it doing with the GPU?"} <= set(rows)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in found
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in found}) == len(found)


def test_every_query_reads_metrics() -> None:
    assert len(queries()) > len(panels()) > 20
    assert all(metrics_in(query) for query in queries())


@pytest.mark.parametrize("config", CONFIGS)
def test_promtool_accepts_config_and_alerts(config: str) -> None:
    done = promtool("check", "config", PROMETHEUS / config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(alerts())} rules found" in done.stdout


def test_promtool_parses_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{index}", "expr": query} for index, query in enumerate(queries())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = promtool("check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_runbook() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    headings = set(re.findall(r"^### (\w+)$", page, re.M))
    assert headings == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_page_names_every_metric_that_is_used() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    used = {name for query in [*queries(), *(rule["expr"] for rule in alerts())] for name in metrics_in(query)}
    plain = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in used if name.startswith("darkroom_")}
    assert {name for name in plain if name not in page} == set()


def test_prometheus_scrapes_the_servers_of_the_compose_files() -> None:
    for config, compose in zip(CONFIGS, ("docker-compose.yml", "docker-compose.gpu.yml"), strict=True):
        targets = loaded(PROMETHEUS / config)["scrape_configs"][0]["static_configs"][0]["targets"]
        services = loaded(DOCKER / compose)["services"]
        ours = [name for name, one in services.items() if one["image"].startswith("darkroom:") and name != "export"]
        assert targets == [f"{name}:8000" for name in ours]
        mounted = {volume.split(":")[0] for volume in services["prometheus"]["volumes"]}
        assert {f"./prometheus/{config}", "./prometheus/alerts.yml"} <= mounted
    assert loaded(GRAFANA / "datasource.yml")["datasources"][0]["url"] == "http://prometheus:9090"


def test_endpoint_for_traces_is_a_service_of_the_compose_files() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    (host,) = re.findall(r"^OTEL_EXPORTER_OTLP_ENDPOINT=http://(\w+):4318$", page, re.M)
    for compose in ("docker-compose.yml", "docker-compose.gpu.yml"):
        assert loaded(DOCKER / compose)["services"][host]["profiles"] == ["monitoring"]
        assert f"OTEL_EXPORTER_OTLP_ENDPOINT=http://{host}:4318" in (DOCKER / compose).read_text()
