"""The `sd15` model over plain tritonclient: batches that requests share, cancelling, errors, instances."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from darkroom.errors import InvalidInput, NotAnImage, TooLarge, from_wire
from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.settings import Settings
from exporters.config import Placement, model_code, render
from tests.conftest import RunningTriton, running_triton
from tests.pictures import encoded, photo, pixels
from tests.service import ROOT, link_models
from tests.triton.streams import Stream, executions, rows_and_executions, stubs_of

UNET = networks.UNET.name
FIELDS = {"prompt": "a photo of a cat on a blue background", "seed": np.int64(5), "width": 64, "height": 64}
_PLANTED = """
from darkroom.pipelines.sd15 import pipeline

def planted(*_):
    raise ZeroDivisionError("planted in a step; /secret/path")

pipeline.guide = planted

"""
_FAILING_UNET = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError("planted in a network")) for _ in requests]
"""


def _python_model(repository: Path, spec: networks.ModelSpec, code: str, name: str | None = None) -> Path:
    """A model of that signature with other code."""
    folder = repository / (name or spec.name) / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(code)
    text = render(spec, Placement()).replace(f'name: "{spec.name}"', f'name: "{name or spec.name}"')
    (folder.parent / "config.pbtxt").write_text(text.replace('backend: "onnxruntime"', 'backend: "python"'))
    return folder


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    """A tritonserver over the family, with two instances of the UNet, and a pipeline with a fault beside it."""
    folder = tmp_path_factory.mktemp("sd15")
    repository = folder / "repository"
    specs = (networks.TEXT_ENCODER, *networks.CONTROL_UNETS.values(), networks.VAE_DECODER, networks.PIPELINE)
    link_models(repository, *(spec.name for spec in specs))
    (repository / UNET).mkdir()
    (repository / UNET / "1").symlink_to(ROOT / "model_repository" / UNET / "1")
    two = render(networks.UNET, Placement(instances=2, threads=1, queue_delay_us=2000))
    (repository / UNET / "config.pbtxt").write_text(two)
    version = _python_model(
        repository, networks.PIPELINE, _PLANTED + model_code(networks.PIPELINE), name="sd15_planted"
    )
    for name in networks.PIPELINE.files:
        (version / name).symlink_to(ROOT / "model_repository" / "sd15" / "1" / name)
    with running_triton(repository, folder, timeout=120) as running:
        yield running


def _pictures(responses: list[dict[str, Any]]) -> list[NDArray[np.uint8]]:
    return [pixels(response["image"].tobytes()) for response in responses if "image" in response]


def test_progress_then_the_pictures(triton: RunningTriton) -> None:
    responses = Stream(triton, "sd15", **FIELDS, steps=4, scheduler="euler", num_images=2, preview_every=2).all()
    assert [list(response["progress"]) for response in responses] == [[n, 4] for n in (0, 1, 2, 3, 4, 4, 4)]
    assert ["preview" in response for response in responses] == [False, False, True, False, False, False, False]
    first, second = _pictures(responses)
    assert first.shape == second.shape == (64, 64, 3)
    details = [json.loads(response["details"][0]) for response in responses[-2:]]
    assert [one["seed"] for one in details] == [5, 6]
    alone = _pictures(Stream(triton, "sd15", **{**FIELDS, "seed": np.int64(6)}, steps=4, scheduler="euler").all())[0]
    assert np.abs(second.astype(int) - alone.astype(int)).max() <= 2


def test_who_does_not_look_hears_of_no_steps(triton: RunningTriton) -> None:
    for every, heard in ((0, [0, 4]), (3, [0, 3, 4])):
        responses = Stream(triton, "sd15", **FIELDS, steps=4, scheduler="euler", progress_every=every).all()
        assert [response["progress"][0] for response in responses] == heard
        assert len(_pictures(responses)) == 1


def test_requests_share_batches_and_do_not_disturb_each_other(triton: RunningTriton) -> None:
    alone = [Stream(triton, "sd15", **FIELDS, steps=48).all()[-1]["image"].tobytes() for _ in range(2)]
    assert alone[0] == alone[1], "the same seed alone gives the same bytes"
    before = rows_and_executions(triton, UNET)
    others = [
        {
            "prompt": f"a drawing of {n} dogs",
            "seed": np.int64(n),
            "steps": 48 + n,
            "scheduler": name,
            "guidance_scale": g,
        }
        for n, (name, g) in enumerate([("ddim", 3.0), ("euler_a", 9.0), ("unipc", 7.5), ("pndm", 1.0)] * 3)
    ][:11]
    streams = [Stream(triton, "sd15", **{**FIELDS, **other}) for other in others]
    ours = Stream(triton, "sd15", **FIELDS, steps=48)
    together = ours.all()[-1]["image"].tobytes()
    for stream in streams:
        assert len(_pictures(stream.all())) == 1
    after = rows_and_executions(triton, UNET)
    difference = pixels(together).astype(int) - pixels(alone[0]).astype(int)
    assert np.abs(difference).max() <= 2
    rows, runs = after[0] - before[0], after[1] - before[1]
    assert rows / runs > 3, "rows of several requests, each of which brings one or two"


def test_steps_of_a_client_with_few_requests_do_not_wait_for_all_of_the_others(triton: RunningTriton) -> None:
    size = {"width": 256, "height": 256}  # of which two requests run together
    streams = [Stream(triton, "sd15", **{**FIELDS, **size}, steps=100, sent_by="many") for _ in range(24)]
    for stream in streams:
        while stream.next()["progress"][0] < 1:
            pass
    few = Stream(triton, "sd15", **{**FIELDS, **size}, steps=6, sent_by="few")
    rows = []
    for _ in range(7):
        few.next()
        rows.append(rows_and_executions(triton, UNET)[0])
    for stream in streams:
        stream.close(cancel=True)
    few.close()
    each = np.diff(rows[1:])
    assert np.median(each) <= 24, f"{each} rows for a step; in a round of all it would be one of 50"


def test_instances_share_the_work(triton: RunningTriton) -> None:
    stubs = stubs_of(triton, UNET)
    assert len(stubs) == 2
    before = [sum(stub.cpu_times()[:2]) for stub in stubs]
    for stream in [Stream(triton, "sd15", **{**FIELDS, "width": 256, "height": 256}, steps=6) for _ in range(8)]:
        stream.all()
    spent = [sum(stub.cpu_times()[:2]) - was for stub, was in zip(stubs, before, strict=True)]
    assert min(spent) > 0.2 * sum(spent), spent


def test_cancelling_stops_within_one_step(triton: RunningTriton) -> None:
    stream = Stream(triton, "sd15", **{**FIELDS, "width": 256, "height": 256}, steps=100)
    for _ in range(3):
        stream.next()
    stream.close(cancel=True)
    done = executions(triton, UNET)
    time.sleep(3)  # long enough for several steps, if nothing stopped them
    assert executions(triton, UNET) - done <= 1


def test_an_exception_in_a_step_reaches_the_client(triton: RunningTriton) -> None:
    stream = Stream(triton, "sd15_planted", **FIELDS, steps=4)
    with pytest.raises(InferenceServerException) as caught:
        stream.all()
    stream.close()
    ours = from_wire(caught.value.message())
    assert ours is not None
    assert ours.code == "internal_error"
    assert "secret" not in ours.message
    _wait_for_log(triton, "ZeroDivisionError")
    assert len(_pictures(Stream(triton, "sd15", **FIELDS, steps=2).all())) == 1, "the others are served on"


def _wait_for_log(triton: RunningTriton, words: str) -> None:
    deadline = time.monotonic() + 10
    while words not in triton.log.read_text():
        assert time.monotonic() < deadline, f"no {words!r} in the log"
        time.sleep(0.1)


def test_a_failing_network_reaches_the_client(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    link_models(repository, "sd15_text_encoder", "sd15_vae_decoder", "sd15")
    _python_model(repository, networks.UNET, _FAILING_UNET)
    with running_triton(repository, tmp_path / "work") as triton:
        stream = Stream(triton, "sd15", **FIELDS, steps=4)
        with pytest.raises(InferenceServerException) as caught:
            stream.all()
        stream.close()
        ours = from_wire(caught.value.message())
        assert ours is not None
        assert ours.code == "network_error"
        assert "planted in a network" in ours.message
        stream = Stream(triton, "sd15", **FIELDS, steps=4, control_image=encoded(photo(0, 0, 64, 64)))
        with pytest.raises(InferenceServerException, match="control_type 'canny' has no network"):
            stream.all()
        stream.close()


def test_control(triton: RunningTriton) -> None:
    data = encoded(photo(0, 0, 96, 96))
    first, *_, last = Stream(triton, "sd15", **FIELDS, steps=3, control_image=data, low_threshold=50).all()
    edges = pixels(first["control_map"].tobytes())
    assert edges.shape == (64, 64, 3)
    assert set(np.unique(edges)) == {0, 255}
    assert json.loads(last["details"][0])["control_type"] == "canny"


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"steps": 0}, InvalidInput, "steps"),
        ({"steps": Settings().max_steps + 1}, InvalidInput, "steps"),
        ({"guidance_scale": float("nan")}, InvalidInput, "guidance_scale"),
        ({"width": 100}, InvalidInput, "width"),
        ({"height": 8}, InvalidInput, "height"),
        ({"width": 4096, "height": 4096}, TooLarge, "width"),
        ({"num_images": 99}, InvalidInput, "num_images"),
        ({"seed": np.int64(-2)}, InvalidInput, "seed"),
        ({"scheduler": "magic"}, InvalidInput, "scheduler"),
        ({"scheduler": "lcm", "steps": 120}, InvalidInput, "steps"),
        ({"prompt": "x" * 5000}, InvalidInput, "prompt"),
        ({"prompt": "(cat:99)"}, InvalidInput, "prompt"),
        ({"control_type": "../x", "control_image": b"1"}, InvalidInput, "control_type"),
        ({"control_image": b"nonsense"}, NotAnImage, "control_image"),
        ({"format": "gif"}, InvalidInput, "format"),
    ],
)
def test_errors_come_back_typed(
    triton: RunningTriton, fields: dict[str, Any], kind: type[InvalidInput], param: str
) -> None:
    stream = Stream(triton, "sd15", **{**FIELDS, **fields})
    with pytest.raises(InferenceServerException) as caught:
        stream.all()
    stream.close()
    ours = from_wire(caught.value.message())
    assert type(ours) is kind
    assert ours.param == param
