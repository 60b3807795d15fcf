"""The answer of GET /metrics: what this proxy has measured, and what Triton and its models have."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def exposition(registry: CollectorRegistry, triton: str) -> bytes:
    """Both in one text of Prometheus' format 0.0.4. Their names differ, so each family stays in one piece.

    :param triton: the text of Triton's endpoint; "" while it cannot be read.
    """
    return generate_latest(registry) + _ended(triton).encode()


def _ended(text: str) -> str:
    """A text that ends with its last whole line: the format wants a line feed there."""
    return text[: text.rfind("\n") + 1]
