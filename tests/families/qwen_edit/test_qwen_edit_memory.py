"""The largest memory of the whole service for an edit of large images, against what README.md states.

The networks are tiny and see images at the sizes of published checkpoints: what is left is what the pixels take.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.memory import Peak
from darkroom.pipelines.qwen_edit import networks
from tests.contract.generating import first
from tests.pictures import encoded, photo, pixels
from tests.service import ROOT, running_service

SIZE = (4000, 3000)
STATED = re.compile(r"An edit of two images of 4000x3000 takes at most ([0-9.]+) GB beside what")
PUBLISHED = {"condition_area": 384 * 384, "reference_area": 1024 * 1024}
"""The sizes at which the published checkpoints see images."""
PARTS = (
    "把背景換成日落時的海灘，天空要有紫色的雲 🌅🏖️。",
    "Keep the face, the hair and the suit of the person of Picture 1 exactly as they are, please! 👩‍🚀",
    "再把圖2的貓放在她的右邊 🐈，光線要一致；",
    "soft light from the left, long shadows, a little film grain 🎞️ — nothing else changes.\n",
)


def prompt_of(size: int) -> str:
    """Chinese, English and emoji, of `size` bytes in UTF-8 or up to three fewer."""
    whole = "".join(PARTS) * (size // len("".join(PARTS).encode()) + 1)
    return whole.encode()[:size].decode(errors="ignore")


def large(left: int) -> bytes:
    """A photo of SIZE with noise, which compresses badly."""
    noise = np.random.default_rng(left).integers(-8, 9, (SIZE[1], SIZE[0], 3), np.int16)
    enlarged = photo(left, 0, 400, 300).resize(SIZE, Image.Resampling.BICUBIC)
    image: NDArray[np.uint8] = (np.asarray(enlarged) + noise).clip(0, 255).astype(np.uint8)
    return encoded(Image.fromarray(image), "JPEG", quality=90)


@pytest.mark.heavy
def test_qwen_edit_two_large_images_and_a_long_prompt_take_the_stated_memory(
    qwen_edit_repository: Path, tmp_path: Path
) -> None:
    stated = STATED.search((ROOT / "README.md").read_text())
    assert stated is not None
    repository = tmp_path / "models"
    shutil.copytree(qwen_edit_repository, repository)
    facts = repository / networks.PIPELINE.name / "1" / "pipeline.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | PUBLISHED))
    prompt = prompt_of(2048)
    assert 2044 < len(prompt.encode()) <= 2048
    files = [("images", (f"{left}.jpg", large(left), "image/jpeg")) for left in (0, 100)]
    fields = {"prompt": prompt, "seed": 7, "steps": 2, "response_format": "json"}
    settings = {"model_repository": repository, "canary_interval": 3600, "task_timeout": 3600}
    with running_service(tmp_path, **settings) as service, httpx.Client(base_url=service.url, timeout=3600) as http:
        idle = sum(service.memory().values())
        with Peak(service) as peak:
            answer = http.post("/edit", files=files, data=fields)
        result = pixels(first(answer))
        parameters = http.post("/png-info", files={"file": first(answer)}).json()["darkroom"]
    assert result.shape == (SIZE[1], SIZE[0], 3)
    assert result.std() > 5
    assert parameters["prompt"] == prompt
    taken = (sum(peak.memory.values()) - idle) / 1e9
    sys.stdout.write(f"{idle / 1e9:.2f} GB idle, {taken:.2f} GB more: {json.dumps(peak.memory)}\n")
    assert 0.3 < taken <= float(stated[1])
