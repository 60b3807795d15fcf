"""Writes darkroom.json, the dashboard of Grafana, from the panels below: `python docker/grafana/make_dashboard.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("darkroom.json")
_HERE = 'instance=~"$instance"'
_PANELS_A_ROW, _WIDTH, _HEIGHT = 3, 8, 7


def _rate(name: str, labels: str = "") -> str:
    return f"rate({name}{{{_HERE}{labels}}}[$__rate_interval])"


def _sum(by: str, name: str, labels: str = "") -> str:
    return f"sum by ({by}) ({_rate(name, labels)})"


def _quantile(share: float, by: str, name: str, labels: str = "") -> str:
    return f"histogram_quantile({share}, {_sum(f'le, {by}', f'{name}_bucket', labels)})"


def _mean(by: str, name: str, labels: str = "") -> str:
    return f"{_sum(by, f'{name}_sum', labels)} / {_sum(by, f'{name}_count', labels)}"


Panel = tuple[str, str, str, list[tuple[str, str]]]
"""Title, unit, description, and queries with their legends."""

ROWS: list[tuple[str, list[Panel]]] = [
    (
        "Does it work?",
        [
            (
                "Ready",
                "short",
                "1 while the models of a family answer.",
                [(f"darkroom_ready{{{_HERE}}}", "{{family}} {{instance}}")],
            ),
            (
                "Requests for work by outcome",
                "reqps",
                "done, accepted (as a task), or the code of the error.",
                [(_sum("operation, outcome", "darkroom_requests_total"), "{{operation}}: {{outcome}}")],
            ),
            (
                "Restarts in the last hour",
                "short",
                "kind model: one model was loaded again alone.",
                [(f"increase(darkroom_restarts_total{{{_HERE}}}[1h])", "{{kind}} {{instance}}")],
            ),
            (
                "HTTP answers by status",
                "reqps",
                "All endpoints, those that only read among them.",
                [(_sum("surface, status", "darkroom_http_requests_total"), "{{surface}} {{status}}")],
            ),
            (
                "Decisions of the content policy",
                "reqps",
                "Empty without POLICY_FILE.",
                [(_sum("decision, rule", "darkroom_policy_decisions_total"), "{{decision}} {{rule}}")],
            ),
            ("Stored tasks", "short", "Of the whole database.", [("max by (state) (darkroom_tasks)", "{{state}}")]),
        ],
    ),
    (
        "Is it slow, and where?",
        [
            (
                "Direct requests, P50 and P95",
                "s",
                "From the request to the end of its answer, waiting included.",
                [
                    (_quantile(0.5, "operation, model", "darkroom_request_seconds"), "{{model}} P50"),
                    (_quantile(0.95, "operation, model", "darkroom_request_seconds"), "{{model}} P95"),
                ],
            ),
            (
                "Waiting for a slot, P95",
                "s",
                "A long wait and a short stage below: more slots, or more GPUs.",
                [(_quantile(0.95, "kind", "darkroom_queue_wait_seconds"), "{{kind}}")],
            ),
            (
                "Waiting and running",
                "short",
                "Tasks that wait are those of all proxies.",
                [
                    (f"darkroom_queue_length{{{_HERE}}}", "waiting, {{kind}} {{instance}}"),
                    (f"darkroom_running{{{_HERE}}}", "running, {{lane}} {{instance}}"),
                ],
            ),
            (
                "Mean time of the stages",
                "s",
                "encode: prompts and images; denoise: all steps; decode: latents to pixels; write: the file.",
                [(_mean("model, stage", "darkroom_stage_seconds"), "{{model}} {{stage}}")],
            ),
            (
                "One step, P50 and P95",
                "s",
                "By the side of the smallest square that is as large as the image.",
                [
                    (_quantile(0.5, "model, size", "darkroom_step_seconds"), "{{model}} {{size}} P50"),
                    (_quantile(0.95, "model, size", "darkroom_step_seconds"), "{{model}} {{size}} P95"),
                ],
            ),
            (
                "First preview, P50",
                "s",
                "Of requests that asked for previews.",
                [(_quantile(0.5, "model", "darkroom_first_preview_seconds"), "{{model}}")],
            ),
        ],
    ),
    (
        "Are batches full?",
        [
            (
                "Rows per execution",
                "short",
                "The mean. With guidance an image has two rows in each step.",
                [(_mean("model", "darkroom_network_batch_rows"), "{{model}}")],
            ),
            (
                "Why calls ran alone",
                "reqps",
                "alone: Triton had no other call of these shapes; row_limit: rows_by_size; see docs/monitoring.md.",
                [(_sum("model, reason", "darkroom_network_unbatched_total"), "{{model}}: {{reason}}")],
            ),
            (
                "What else was on its way to the network",
                "reqps",
                "none: nothing to share a batch with; other_shapes: only images of other sizes.",
                [(_sum("network, company", "darkroom_network_calls_total"), "{{network}}: {{company}}")],
            ),
            (
                "One execution, P95",
                "s",
                "Time in the network itself.",
                [(_quantile(0.95, "model", "darkroom_network_run_seconds"), "{{model}}")],
            ),
            (
                "Waiting for a turn, P95",
                "s",
                "In the pipeline, because other requests of it use the network.",
                [(_quantile(0.95, "network", "darkroom_turn_wait_seconds"), "{{network}}")],
            ),
            (
                "LoRA slots",
                "short",
                "Evictions that go on mean that LORA_MEMORY_GB is small for what is asked for.",
                [
                    (f"sum by (model) (darkroom_network_lora_slots{{{_HERE}}})", "{{model}} slots"),
                    (_sum("model", "darkroom_network_lora_loads_total"), "{{model}} loads a second"),
                    (_sum("model", "darkroom_network_lora_evictions_total") + " or vector(0)", "evictions a second"),
                ],
            ),
        ],
    ),
    (
        "What is it doing with the GPU?",
        [
            (
                "Utilization",
                "percentunit",
                "Of GPUs; of the CPU where there are none.",
                [
                    (
                        f"avg by (instance, gpu_uuid) (nv_gpu_utilization{{{_HERE}}}) "
                        f"or avg by (instance) (nv_cpu_utilization{{{_HERE}}})",
                        "{{gpu_uuid}} {{instance}}",
                    )
                ],
            ),
            (
                "Memory in use",
                "percentunit",
                "Of all processes.",
                [
                    (
                        f'darkroom_device_memory_bytes{{{_HERE}, kind="used"}} / ignoring (kind) '
                        f'darkroom_device_memory_bytes{{{_HERE}, kind="total"}}',
                        "{{device}} {{instance}}",
                    )
                ],
            ),
            (
                "Time in each network",
                "percentunit",
                "Seconds of work a second: which network takes the device.",
                [(_sum("model", "darkroom_network_run_seconds_sum"), "{{model}}")],
            ),
            (
                "Images a second",
                "short",
                "",
                [(_sum("operation, model", "darkroom_images_total"), "{{operation}} {{model}}")],
            ),
            (
                "Steps and tiles a second",
                "short",
                "",
                [
                    (_sum("model", "darkroom_step_seconds_count"), "{{model}} steps"),
                    (_sum("model", "darkroom_tile_seconds_count"), "{{model}} tiles"),
                ],
            ),
            (
                "Training",
                "short",
                "Steps a second, and the loss of the last step.",
                [
                    (_sum("instance", "darkroom_training_steps_total"), "steps a second {{instance}}"),
                    (f"darkroom_training_loss{{{_HERE}}}", "loss {{instance}}"),
                ],
            ),
        ],
    ),
]


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        position = {"h": 1, "w": 24, "x": 0, "y": top}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": position, "panels": []})
        top += 1
        for index, panel in enumerate(row):
            column = index % _PANELS_A_ROW
            panels.append(_panel(len(panels) + 1, panel, x=column * _WIDTH, y=top))
            if column == _PANELS_A_ROW - 1 or index == len(row) - 1:
                top += _HEIGHT
    return {
        "uid": "darkroom",
        "title": "Darkroom",
        "tags": ["darkroom"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_instances()]},
        "panels": panels,
    }


def _instances() -> dict[str, Any]:
    return {
        "name": "instance",
        "label": "Proxy",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "darkroom"},
        "query": {"query": "label_values(darkroom_info, instance)", "refId": "instances"},
        "definition": "label_values(darkroom_info, instance)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: Panel, *, x: int, y: int) -> dict[str, Any]:
    title, unit, description, queries = panel
    source = {"type": "prometheus", "uid": "darkroom"}
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": source,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": source, "expr": query, "legendFormat": legend}
            for index, (query, legend) in enumerate(queries)
        ],
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(dashboard(), indent=2) + "\n")
