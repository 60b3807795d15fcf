"""The plain server that edits are measured against: it answers as the service does, from random weights."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from benchmarks.local import as_pixels
from benchmarks.qwen_edit.baseline import create_app
from benchmarks.qwen_edit.checkpoint import write_checkpoint
from benchmarks.qwen_edit.throughput import SIDE, Edit
from benchmarks.sd15.jobs import content, pictures
from training.demo.qwen_edit.pipeline import load_pipeline


def test_qwen_edit_baseline_answers_edits(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    app = create_app(load_pipeline(tmp_path), threads=1)

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://baseline") as client:
            return await asyncio.gather(*(Edit(number=number, steps=2).post()(client) for number in (0, 1, 0)))

    first, second, again = (content(answer.raise_for_status()) for answer in asyncio.run(ask()))
    assert first == again
    assert (first["seed"], second["seed"]) == (1000, 1001)
    one, other = (as_pixels(pictures(found)[0]) for found in (first, second))
    assert one.shape == (SIDE, SIDE, 3)
    assert (one != other).any()
