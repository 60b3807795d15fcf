"""Reads config.pbtxt of a network in a model repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from darkroom.serving.networks import RowCaps, RowSize


def read_config(model: Path) -> Any | None:
    """Return the `ModelConfig` in a model's folder; None without a config."""
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc import model_config_pb2

    path = model / "config.pbtxt"
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig()) if path.is_file() else None


def on_cpu(config: Any | None) -> bool:
    """Whether a network runs on the CPU; False if this is unknown, because there is no config."""
    return config is not None and any(group.kind == group.KIND_CPU for group in config.instance_group)


def placements(config: Any) -> list[tuple[str, int]]:
    """Where each instance runs: Triton's instance kind ("CPU" or "GPU"), and the number of the GPU."""
    found = [
        ("GPU" if group.kind == group.KIND_GPU else "CPU", int(gpu))
        for group in config.instance_group
        for gpu in (group.gpus or [0])
        for _ in range(group.count)
    ]
    return found or [("CPU", 0)]


def instances(config: Any) -> int:
    """The number of instances of a network."""
    return len(placements(config))


def as_dict(config: Any) -> dict[str, Any]:
    """Convert a `ModelConfig` to the parsed JSON that Triton gives to its backends."""
    from google.protobuf import json_format

    found = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return {"max_batch_size": 0, "input": [], "output": [], **found}


def row_caps(text: str, size: RowSize | None) -> RowCaps | None:
    """Parse the model parameter `rows_by_size`, with the family's own rule `size` if it has one; None for ""."""
    caps = RowCaps.parse(text) if text else None
    return caps if caps is None or size is None else replace(caps, size=size)
