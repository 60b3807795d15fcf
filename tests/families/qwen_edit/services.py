"""The proxy's services with an installed checkpoint that has no weights."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from darkroom.settings import Settings
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.readiness import Monitor
from proxy.services import Services
from tests.families.qwen_edit.facts import facts


def write_checkpoint(
    repository: Path, *, plus: bool = True, steps: int = 40, scale: float = 4.0, controlnet: str = ""
) -> None:
    """What an export writes for the loop; there are no weights."""
    folder = repository / "qwen_edit" / "1"
    folder.mkdir(parents=True)
    (folder / "pipeline.json").write_text(facts(plus=plus, steps=steps, scale=scale, controlnet=controlnet).to_json())


@asynccontextmanager
async def services_of(repository: Path, **settings: Any) -> AsyncIterator[Services]:
    """The services of a proxy that has not found its Triton yet."""
    made = Settings(_env_file=None, model_repository=repository, **settings)
    gateway = Gateway("127.0.0.1:1")
    monitor = Monitor(gateway, {}, metrics_url="http://127.0.0.1:1", interval=60, timeout=1)
    try:
        yield Services(settings=made, gateway=gateway, monitor=monitor, gate=Gate(capacity=1, queue_size=1))
    finally:
        await gateway.close()
