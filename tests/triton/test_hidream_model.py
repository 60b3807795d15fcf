"""The `hidream` family on a real Triton, exported from a tiny checkpoint: pictures, batches, cancelling, errors."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from darkroom.errors import InvalidInput, TooLarge, from_wire
from darkroom.pipelines.hidream import networks
from proxy.network_metrics import Ranks, ranks_of
from tests import tiny_hidream
from tests.conftest import RunningTriton, running_triton
from tests.pictures import pixels
from tests.service import link_models
from tests.triton.streams import Stream, rows_and_executions

TRANSFORMER = networks.TRANSFORMER.name
FIELDS = {"prompt": "a photo of a cat on a blue background", "seed": np.int64(5), "width": 64, "height": 64}
_SHAPES = {"hidden_states": (16, 8, 8), "timesteps": (1,), "encoder_hidden_states_t5": (16, 32),
           "encoder_hidden_states_llama3": (3, 16, 32), "pooled_embeds": (40,)}  # fmt: skip


@pytest.fixture(scope="module")
def triton(hidream_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    with running_triton(hidream_repository, tmp_path_factory.mktemp("work"), timeout=300) as running:
        yield running


def _pictures(responses: list[dict[str, Any]]) -> list[NDArray[np.uint8]]:
    return [pixels(response["image"].tobytes()) for response in responses if "image" in response]


def test_progress_then_the_pictures(triton: RunningTriton) -> None:
    responses = Stream(triton, "hidream", **FIELDS, steps=4, num_images=2, preview_every=2).all()
    assert [list(response["progress"]) for response in responses] == [[n, 4] for n in (0, 1, 2, 3, 4, 4, 4)]
    assert [n for n, response in enumerate(responses) if "preview" in response] == [2]
    first, second = _pictures(responses)
    assert first.shape == second.shape == (64, 64, 3)
    details = [json.loads(response["details"][0]) for response in responses[-2:]]
    assert [one["seed"] for one in details] == [5, 6]
    assert {one["guidance_scale"] for one in details} == {5.0}
    alone = _pictures(Stream(triton, "hidream", **{**FIELDS, "seed": np.int64(6)}, steps=4).all())[0]
    assert np.abs(second.astype(int) - alone.astype(int)).max() <= 2


def test_requests_share_batches_and_do_not_disturb_each_other(triton: RunningTriton) -> None:
    ours = {**FIELDS, "steps": 20, "scheduler": "flow_unipc"}
    alone = [Stream(triton, "hidream", **ours).all()[-1]["image"].tobytes() for _ in range(2)]
    assert alone[0] == alone[1], "the same seed alone gives the same bytes"
    before = rows_and_executions(triton, TRANSFORMER)
    solvers = [("flow_euler", 3.0), ("flow_flash", 0.0), ("flow_unipc", 7.0)] * 2
    others = [
        {"prompt": f"a drawing of {n} dogs", "seed": np.int64(n), "steps": 17 + n, "scheduler": s, "guidance_scale": g}
        for n, (s, g) in enumerate(solvers)
    ]
    streams = [Stream(triton, "hidream", **{**FIELDS, **other}) for other in others]
    together = Stream(triton, "hidream", **ours).all()[-1]["image"].tobytes()
    for stream in streams:
        assert len(_pictures(stream.all())) == 1
    after = rows_and_executions(triton, TRANSFORMER)
    difference = pixels(together).astype(int) - pixels(alone[0]).astype(int)
    assert np.abs(difference).max() <= 2
    rows, runs = after[0] - before[0], after[1] - before[1]
    assert rows / runs > 3, "rows of several requests, each of which brings one or two"


def test_canaries_are_answered(triton: RunningTriton) -> None:
    """What the service asks of every model before it says that it is ready."""
    for spec in (*networks.ENCODERS, networks.VAE_DECODER):
        assert spec.canary is not None
        inputs = []
        for name, array in spec.canary().items():
            inputs.append(grpcclient.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
            inputs[-1].set_data_from_numpy(np.ascontiguousarray(array))
        with triton.client() as client:
            answer = client.infer(spec.name, inputs)
        assert np.isfinite(answer.as_numpy(spec.outputs[0].name)).all(), spec.name
    assert networks.PIPELINE.canary is not None
    values = {name: array[0] for name, array in networks.PIPELINE.canary().items()}
    plain = {name: value if isinstance(value, np.int64) else np.asarray(value).item() for name, value in values.items()}
    assert _pictures(Stream(triton, "hidream", **plain).all())[0].shape == (64, 64, 3)


def test_pictures_that_are_not_square(triton: RunningTriton) -> None:
    (picture,) = _pictures(Stream(triton, "hidream", **{**FIELDS, "width": 128, "height": 64}, steps=2).all())
    assert picture.shape == (64, 128, 3)


def test_cancelling_stops_within_one_step(triton: RunningTriton) -> None:
    stream = Stream(triton, "hidream", **{**FIELDS, "width": 256, "height": 256}, steps=100)
    for _ in range(3):
        stream.next()
    stream.close(cancel=True)
    done = rows_and_executions(triton, TRANSFORMER)[1]
    time.sleep(3)  # long enough for several steps, if nothing stopped them
    assert rows_and_executions(triton, TRANSFORMER)[1] - done <= 1


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"steps": 0}, InvalidInput, "steps"),
        ({"width": 72}, InvalidInput, "width"),
        ({"width": 512, "height": 64}, TooLarge, "width"),
        ({"scheduler": "euler_a"}, InvalidInput, "scheduler"),
        ({"max_sequence_length": 219}, InvalidInput, "max_sequence_length"),
        ({"guidance_scale": float("nan")}, InvalidInput, "guidance_scale"),
    ],
)
def test_errors_come_back_typed(
    triton: RunningTriton, fields: dict[str, Any], kind: type[InvalidInput], param: str
) -> None:
    ours = _failed(Stream(triton, "hidream", **{**FIELDS, **fields}))
    assert type(ours) is kind
    assert ours.param == param


def _failed(stream: Stream) -> Any:
    with pytest.raises(InferenceServerException) as caught:
        stream.all()
    stream.close()
    return from_wire(caught.value.message())


def _ask_transformer(triton: RunningTriton, rows: int, **shapes: tuple[int, ...]) -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    inputs = []
    for name, shape in {**_SHAPES, **shapes}.items():
        inputs.append(grpcclient.InferInput(name, (rows, *shape), "FP32"))
        inputs[-1].set_data_from_numpy(random.normal(size=(rows, *shape)).astype(np.float32))
    with triton.client() as client:
        answer: NDArray[np.float32] = client.infer(TRANSFORMER, inputs).as_numpy("noise_pred")
    return answer


def test_the_transformer_serves_anybody(triton: RunningTriton) -> None:
    assert _ask_transformer(triton, 3).shape == (3, 16, 8, 8)


def test_a_network_that_fails_says_so_and_serves_on(triton: RunningTriton) -> None:
    with pytest.raises(InferenceServerException, match="RuntimeError"):
        _ask_transformer(triton, 1, pooled_embeds=(7,))  # of another checkpoint's encoders
    assert _ask_transformer(triton, 1).shape == (1, 16, 8, 8)


def test_a_failing_step_reaches_the_client(hidream_repository: Path, tmp_path: Path) -> None:
    """A transformer that was exported from another checkpoint: every step fails, and the client hears of it."""
    others = [spec.name for spec in networks.specs() if spec.name != TRANSFORMER]
    broken = link_models(tmp_path / "repository", *others, source=hidream_repository)
    folder = broken / TRANSFORMER / "1"
    folder.mkdir(parents=True)
    tiny_hidream.make_transformer(text_emb_dim=24).save_pretrained(folder)
    for name in ("config.pbtxt", "1/model.py"):
        shutil.copy(hidream_repository / TRANSFORMER / name, broken / TRANSFORMER / name)
    with running_triton(broken, tmp_path / "work", timeout=300) as triton:
        ours = _failed(Stream(triton, "hidream", **FIELDS, steps=4))
        assert ours.code == "network_error"
        assert f"network {TRANSFORMER}: RuntimeError" in ours.message
        assert "/" not in ours.message.partition("RuntimeError")[2]


def test_instances_do_not_share_devices(
    hidream_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would start ranks on all of them."""
    model = tmp_path / "repository" / TRANSFORMER
    shutil.copytree(hidream_repository / TRANSFORMER, model)
    config = (model / "config.pbtxt").read_text()
    (model / "config.pbtxt").write_text(config.replace("count: 1", "count: 2"))
    monkeypatch.setenv("HIDREAM_DEVICES", "0,1")
    with running_triton(model.parent, tmp_path / "work", timeout=180) as triton:
        deadline = time.monotonic() + 180
        while "python -m exporters prepare" not in triton.log.read_text():
            assert time.monotonic() < deadline, triton.log.read_text()[-4000:]
            time.sleep(0.1)
        assert "2 instances would each take the 2 devices of HIDREAM_DEVICES" in triton.log.read_text()
        with triton.client() as client:
            assert not client.is_model_ready(TRANSFORMER)


def test_ranks_that_die_between_two_calls_are_shown(
    hidream_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the proxy reads it, without any call for a prediction."""
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / TRANSFORMER).symlink_to(hidream_repository / TRANSFORMER)
    monkeypatch.setenv("HIDREAM_DEVICES", "0,1")
    with running_triton(tmp_path / "repository", tmp_path / "work", timeout=300) as triton:

        def shown() -> Ranks:
            return ranks_of(httpx.get(triton.metrics, timeout=60).text)[TRANSFORMER]

        assert (shown().mode, shown().healthy, shown().last_failure) == ("distributed", 2, None)
        divided = _ask_transformer(triton, 2)
        below = psutil.Process(triton.process.pid).children(recursive=True)
        ranks = [process for process in below if "darkroom.parallel.rank" in process.cmdline()]
        assert len(ranks) == 2
        ranks[0].kill()
        deadline = time.monotonic() + 120
        while shown().mode == "distributed":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert shown().healthy == 0
        assert "ended" in (shown().last_failure or "")
        np.testing.assert_allclose(_ask_transformer(triton, 2), divided, atol=1e-4 * np.abs(divided).max())


def test_what_the_networks_run_on_is_published(triton: RunningTriton) -> None:
    text = httpx.get(triton.metrics, timeout=10).text
    lines = [line for line in text.splitlines() if line.startswith("darkroom_network_provider{")]
    found = {spec.name: any(f'model="{spec.name}"' in line for line in lines) for spec in networks.networks()}
    assert all(found.values()), found
    assert any('provider="torch cpu"' in line for line in lines)
