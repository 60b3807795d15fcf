"""A ControlNet on a real Triton: what comes back is what the same networks make in this process, beside other edits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from darkroom.pipelines.qwen_edit import networks
from darkroom.png import encode_png
from exporters.config import Placement, write_configs
from tests.conftest import RunningTriton, running_triton
from tests.families.qwen_edit import tiny
from tests.families.qwen_edit.edits import FIRST, SECOND, TOLERANCE, difference, ours, picture
from tests.pictures import pixels
from tests.triton.streams import Stream, rows_and_executions

STEPS = 4
PLAIN: dict[str, Any] = {
    "prompt": "make the cat red",
    "images": [encode_png(picture(FIRST)), encode_png(picture(SECOND, 1))],
    "negative_prompt": "a dog",
    "seed": np.int64(7),
    "steps": STEPS,
    "align": False,
}
STEERED: dict[str, Any] = {**PLAIN, "control_image": encode_png(picture(FIRST, seed=9))}
BRIEFLY: dict[str, Any] = {**STEERED, "control_guidance_end": 0.5, "prompt": "another prompt, a longer one"}


@pytest.fixture(scope="module")
def checkpoint(qwen_edit_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the checkpoint, and beside it a ControlNet and a repository of both."""
    folder = tmp_path_factory.mktemp("steered")
    shutil.copytree(qwen_edit_repository, folder / "models")
    shutil.copytree(qwen_edit_repository.parent / "checkpoint", folder / "checkpoint")
    tiny.write_controlnet(folder / "steering")
    for export in (tiny.exported, tiny.exported_transformer):
        export(folder / "checkpoint", folder / "models", controlnet=folder / "steering")
    write_configs(folder / "models", networks.specs(), Placement())
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def triton(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    with running_triton(checkpoint.parent / "models", tmp_path_factory.mktemp("work"), timeout=300) as running:
        yield running


def result(stream: Stream) -> NDArray[np.uint8]:
    return pixels(stream.all()[-1]["image"].tobytes())


def test_qwen_edit_controlnet_on_triton_is_that_of_the_loop(
    triton: RunningTriton, checkpoint: Path, tmp_path: Path
) -> None:
    pipeline = tiny.make_pipeline(plus=True)
    components = tiny.make_components(pipeline, checkpoint, tmp_path, controlnet=checkpoint.parent / "steering")
    images = [picture(FIRST), picture(SECOND, 1)]
    before = rows_and_executions(triton, networks.TRANSFORMER.name)
    streams = [Stream(triton, "qwen_edit", **fields) for fields in (STEERED, PLAIN, BRIEFLY)]
    steered, plain, briefly = map(result, streams)
    after = rows_and_executions(triton, networks.TRANSFORMER.name)
    assert after[0] - before[0] == 2 * STEPS * 3
    fields = {name: value for name, value in STEERED.items() if name not in ("images", "align")} | {"seed": 7}
    for made, changes in (
        (steered, {}),
        (plain, {"control_image": None}),
        (briefly, {name: BRIEFLY[name] for name in ("control_guidance_end", "prompt")}),
    ):
        assert difference(made[None], ours(components, images, **{**fields, **changes})) <= TOLERANCE
    assert difference(steered[None], plain[None]) > 3 * TOLERANCE
