"""What a model repository says of a network: its config.pbtxt, read."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_config(model: Path) -> Any | None:
    """The `ModelConfig` of a model's folder; None where there is none."""
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc import model_config_pb2

    path = model / "config.pbtxt"
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig()) if path.is_file() else None


def on_cpu(config: Any | None) -> bool:
    """Whether a network runs on the CPU. Without a config nobody knows, and it does not count as one that does."""
    return config is not None and any(group.kind == group.KIND_CPU for group in config.instance_group)


def instances(config: Any) -> int:
    """How many of it run side by side."""
    return max(1, sum(int(group.count) * max(1, len(group.gpus)) for group in config.instance_group))
