"""The family on a real Triton, exported from a tiny checkpoint: edits share executions, and are not disturbed by it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from darkroom.errors import InvalidInput, NotAnImage, from_wire
from darkroom.pipelines.qwen_edit import networks
from darkroom.png import encode_png
from tests.conftest import RunningTriton, running_triton
from tests.pictures import pixels
from tests.triton.streams import Stream, rows_and_executions

TRANSFORMER = networks.TRANSFORMER.name
STEPS = 8


@pytest.fixture(scope="module")
def triton(qwen_edit_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    with running_triton(qwen_edit_repository, tmp_path_factory.mktemp("work"), timeout=300) as running:
        yield running


def image(width: int, height: int, seed: int = 0) -> bytes:
    squares = np.random.default_rng(seed).integers(0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8)
    return encode_png(squares.repeat(16, 0).repeat(16, 1)[:height, :width])


FIELDS: dict[str, Any] = {
    "prompt": "make the cat red",
    "images": [image(112, 80)],
    "negative_prompt": "a dog",
    "seed": np.int64(5),
    "steps": STEPS,
    "align": False,
}
EDITS: list[dict[str, Any]] = [
    FIELDS,
    {**FIELDS, "prompt": "a much longer prompt that speaks of dogs and of other things", "images": [image(64, 96, 1)]},
    {**FIELDS, "images": [image(112, 80), image(96, 96, 2)], "seed": np.int64(9)},
    {**FIELDS, "negative_prompt": " ", "images": [image(80, 80, 3), image(64, 96, 4), image(112, 64, 5)]},
]
"""Other prompts, sizes and numbers of images. Each brings two rows a step."""


def results(responses: list[dict[str, Any]]) -> list[NDArray[np.uint8]]:
    return [pixels(response["image"].tobytes()) for response in responses if "image" in response]


def edited(triton: RunningTriton, **fields: Any) -> NDArray[np.uint8]:
    (result,) = results(Stream(triton, "qwen_edit", **fields).all())
    return result


def difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def test_qwen_edit_edits_share_executions_and_do_not_disturb_each_other(triton: RunningTriton) -> None:
    alone = [edited(triton, **fields) for fields in EDITS]
    before = rows_and_executions(triton, TRANSFORMER)
    streams = [Stream(triton, "qwen_edit", **fields) for fields in EDITS]
    together = [results(stream.all())[0] for stream in streams]
    after = rows_and_executions(triton, TRANSFORMER)
    rows, executions = after[0] - before[0], after[1] - before[1]
    assert rows == 2 * STEPS * len(EDITS)
    assert rows / executions > 3, "each edit brings two rows"
    assert [difference(*pair) <= 2 for pair in zip(alone, together, strict=True)] == [True] * len(EDITS)
    assert [one.shape[:2] for one in together] == [(80, 112), (96, 64), (80, 112), (80, 80)]


def test_qwen_edit_progress_then_the_results(triton: RunningTriton) -> None:
    responses = Stream(triton, "qwen_edit", **{**FIELDS, "steps": 4}, num_images=2, preview_every=2).all()
    assert [list(response["progress"]) for response in responses] == [[n, 4] for n in (0, 1, 2, 3, 4, 4, 4)]
    assert [n for n, response in enumerate(responses) if "preview" in response] == [2]
    details = [json.loads(response["details"][0]) for response in responses[-2:]]
    assert [one["seed"] for one in details] == [5, 6]
    assert {(one["width"], one["height"], one["true_guidance_scale"]) for one in details} == {(112, 80, 4.0)}
    assert len(results(responses)) == 2


def test_qwen_edit_same_seed_gives_the_same_bytes(triton: RunningTriton) -> None:
    first, second = (Stream(triton, "qwen_edit", **{**FIELDS, "steps": 3}).all()[-1] for _ in range(2))
    assert first["image"].tobytes() == second["image"].tobytes()


def test_qwen_edit_canaries_are_answered(triton: RunningTriton) -> None:
    for spec in (networks.VAE_ENCODER, networks.VAE_DECODER):
        assert spec.canary is not None
        inputs = []
        for name, array in spec.canary().items():
            inputs.append(grpcclient.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
            inputs[-1].set_data_from_numpy(np.ascontiguousarray(array))
        with triton.client() as client:
            answer = client.infer(spec.name, inputs)
        assert np.isfinite(answer.as_numpy(spec.outputs[0].name)).all(), spec.name
    assert networks.PIPELINE.canary is not None
    inputs = networks.PIPELINE.canary()
    plain = {name: list(array) if name == "images" else array[0] for name, array in inputs.items()}
    named = {
        name: value if isinstance(value, list | np.int64) else np.asarray(value).item() for name, value in plain.items()
    }
    assert edited(triton, **named).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"images": []}, InvalidInput, "images"),
        ({"images": [b"no image"]}, NotAnImage, "images"),
        ({"prompt": "a <|image_pad|>"}, InvalidInput, "prompt"),
        ({"prompt": "x" * 4000}, InvalidInput, "prompt"),
        ({"steps": 51}, InvalidInput, "steps"),
        ({"steps": 1}, InvalidInput, "steps"),
    ],
)
def test_qwen_edit_errors_come_back_typed(
    triton: RunningTriton, fields: dict[str, Any], kind: type[InvalidInput], param: str
) -> None:
    stream = Stream(triton, "qwen_edit", **{**FIELDS, **fields})
    with pytest.raises(InferenceServerException) as caught:
        stream.all()
    stream.close()
    ours = from_wire(caught.value.message())
    assert type(ours) is kind
    assert ours.param == param


def test_qwen_edit_part_of_a_failed_request_that_still_runs_does_not_end_triton(
    qwen_edit_repository: Path, tmp_path: Path
) -> None:
    """The text encoder is not there, while images are encoded, which asks whether their request is cancelled."""
    repository = tmp_path / "models"
    shutil.copytree(qwen_edit_repository, repository)
    (repository / networks.TEXT_ENCODER.name / "1" / "config.json").unlink()
    images = [image(112, 80), image(96, 96, 2), image(64, 96, 4)]
    with running_triton(repository, tmp_path / "work", timeout=300) as running:
        for _ in range(8):
            with pytest.raises(InferenceServerException, match=networks.TEXT_ENCODER.name):
                Stream(running, "qwen_edit", **{**FIELDS, "images": images}).all()
        assert running.process.poll() is None
        with running.client() as client:
            assert client.is_model_ready("qwen_edit")
