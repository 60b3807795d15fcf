"""The `upscale` model over plain tritonclient: nothing may work only through the proxy."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from darkroom.errors import InvalidInput, NotAnImage, from_wire
from tests.conftest import RunningTriton, running_triton
from tests.pictures import encoded, photo, pixels
from tests.service import ROOT
from tests.triton.streams import Stream, executions, stub_of

NETWORK = "realesrgan_animevideov3_x2"


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    """A tritonserver, without proxy and supervisor, over two models of the real repository."""
    folder = tmp_path_factory.mktemp("upscale")
    repository = folder / "repository"
    repository.mkdir()
    committed = ROOT / "model_repository"
    (repository / "upscale").symlink_to(committed / "upscale")
    (repository / NETWORK).mkdir()
    (repository / NETWORK / "1").symlink_to(committed / NETWORK / "1")
    # Without an arena what a run needed is free again after it, which the test of short memory counts on.
    no_arena = 'parameters { key: "enable_mem_arena" value: { string_value: "0" } }\n'
    (repository / NETWORK / "config.pbtxt").write_text((committed / NETWORK / "config.pbtxt").read_text() + no_arena)
    with running_triton(repository, folder) as running:
        yield running


def test_progress_then_the_picture(triton: RunningTriton) -> None:
    data = encoded(photo(0, 0, 100, 60))
    *progress, last = Stream(triton, "upscale", image=data, model="animevideov3-x2", tile=50).all()
    assert [list(response) for response in progress] == [["progress"]] * 3
    assert [list(response["progress"]) for response in [*progress, last]] == [[n, 4] for n in (1, 2, 3, 4)]
    assert list(last["shape"]) == [120, 200, 3]
    assert pixels(last["upscaled"].tobytes()).shape == (120, 200, 3)
    assert json.loads(last["details"][0])["network"] == NETWORK


def test_raw_output(triton: RunningTriton) -> None:
    data = encoded(photo(0, 0, 20, 10))
    raw, png = (
        Stream(triton, "upscale", image=data, model="animevideov3-x2", format=f).all()[-1] for f in ("raw", "png")
    )
    assert np.array_equal(raw["upscaled"].reshape(raw["shape"]), pixels(png["upscaled"].tobytes()))


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"image": b"nonsense"}, NotAnImage, "image"),
        ({"image": b""}, NotAnImage, "image"),
        ({"image": encoded(photo(0, 0, 8, 8)), "scale": 99.0}, InvalidInput, "scale"),
        ({"image": encoded(photo(0, 0, 8, 8)), "scale": float("nan")}, InvalidInput, "scale"),
        ({"image": encoded(photo(0, 0, 8, 8)), "model": "../../etc"}, InvalidInput, "model"),
        ({"image": encoded(photo(0, 0, 8, 8)), "tile": -5}, InvalidInput, "tile"),
    ],
)
def test_errors_come_back_typed(
    triton: RunningTriton, fields: dict[str, Any], kind: type[InvalidInput], param: str
) -> None:
    stream = Stream(triton, "upscale", **fields)
    with pytest.raises(InferenceServerException) as caught:
        stream.next()
    stream.close()
    ours = from_wire(caught.value.message())
    assert type(ours) is kind
    assert ours.param == param


def test_a_small_picture_is_not_behind_the_tiles_of_a_large_one(triton: RunningTriton) -> None:
    """Of two clients, and of one."""
    large, small = encoded(photo().resize((1024, 1024))), encoded(photo(0, 0, 32, 32))
    for client in ("another", "the same"):
        stream = Stream(triton, "upscale", image=large, model="animevideov3-x2", sent_by="the same")
        total = int(stream.next()["progress"][1])
        before = executions(triton, NETWORK)
        Stream(triton, "upscale", image=small, model="animevideov3-x2", sent_by=client).all()
        assert executions(triton, NETWORK) - before <= 4, "its own, the one at work, and what came while it was encoded"
        stream.close(cancel=True)
        assert total == 16


def test_cancelling_stops_within_the_tiles_at_work(triton: RunningTriton) -> None:
    data = encoded(photo().resize((1024, 1024)))  # 64 tiles
    stream = Stream(triton, "upscale", image=data, model="animevideov3-x2", tile=128)
    for _ in range(3):
        stream.next()
    done = executions(triton, NETWORK)
    stream.close(cancel=True)
    time.sleep(3)  # long enough for about ten tiles, if nothing stopped them
    stopped = executions(triton, NETWORK)
    assert stopped - done <= 4, "two tiles in flight when it was read, and two when the cancel arrived"
    time.sleep(1)
    assert executions(triton, NETWORK) == stopped


@pytest.mark.heavy
def test_out_of_memory_halves_the_tile_and_finishes(triton: RunningTriton) -> None:
    """The real thing: the network's process gets a limit on its address space that a large tile breaks."""
    data = encoded(photo())
    # The first run also lets the stub map all the shared memory that the answers need.
    wanted = pixels(
        Stream(triton, "upscale", image=data, model="animevideov3-x2", tile=0).all()[-1]["upscaled"].tobytes()
    )
    stub = stub_of(triton, NETWORK)
    old = resource.prlimit(stub.pid, resource.RLIMIT_AS)
    room = stub.memory_info().vms + (96 << 20)
    resource.prlimit(stub.pid, resource.RLIMIT_AS, (room, old[1]))
    try:
        last = Stream(triton, "upscale", image=data, model="animevideov3-x2", tile=0).all()[-1]
    finally:
        resource.prlimit(stub.pid, resource.RLIMIT_AS, old)
    assert json.loads(last["details"][0])["tile"] < 512
    difference = np.abs(pixels(last["upscaled"].tobytes()).astype(int) - wanted.astype(int))
    assert difference.mean() < 1


def test_pictures_of_many_streams_stay_apart(triton: RunningTriton) -> None:
    crops = [encoded(photo(i * 30, i * 20, 96, 96)) for i in range(8)]
    alone = [Stream(triton, "upscale", image=data, model="animevideov3-x2").all()[-1]["upscaled"] for data in crops]
    streams = [Stream(triton, "upscale", image=data, model="animevideov3-x2") for data in crops]
    for stream, single in zip(streams, alone, strict=True):
        together = pixels(stream.all()[-1]["upscaled"].tobytes())
        assert np.abs(together.astype(int) - pixels(single.tobytes()).astype(int)).max() <= 2
