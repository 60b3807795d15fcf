"""`darkroom bench` against the real service."""

from __future__ import annotations

import json

from click.testing import CliRunner
from darkroom_client.cli import main

from tests.service import RunningService


def test_bench_measures_the_real_service(service: RunningService) -> None:
    made_before = service.counts("sd15_unet").rows
    # DDIM runs the UNet once a step.
    options = "-c 1,2 -n 4 --field scheduler=ddim --steps 4 --stream --preview-every 1 --json -"
    words = ["bench", service.url, *options.split()]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    run = json.loads(result.stdout)
    assert run["api"] == "native"
    for level in run["levels"]:
        assert (level["requests"], level["images"], level["errors"]) == (4, 4, {})
        assert level["latency"]["p95"] is None, "four answers have none"
        assert level["first_preview"]["count"] == 4
        assert all(0 < one["first_preview"] < one["seconds"] for one in level["samples"])
    images = 8 + 1 + 2  # with the warm-up of each level
    assert service.counts("sd15_unet").rows - made_before == images * 4 * 2, "two rows a step with guidance"
