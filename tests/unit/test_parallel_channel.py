"""Messages and tensors between leader and ranks, how ranks are arranged, and what devices need."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch

from darkroom.errors import InvalidInput
from darkroom.parallel.channel import Channel, Entry, SharedTensors
from darkroom.parallel.devices import environment, kind_of, rank_environment
from darkroom.parallel.job import RanksJob, Timeouts
from darkroom.parallel.layout import ALL, Layout, Place


def channels() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)


def test_messages_stay_apart_and_the_end_is_seen() -> None:
    ours, theirs = channels()
    ours.send({"call": 1})
    ours.send({"call": 2, "words": "x" * 5000})
    assert theirs.receive() == {"call": 1}
    assert theirs.receive() == {"call": 2, "words": "x" * 5000}
    assert ours.peer() == os.getpid()
    ours.close()
    assert theirs.receive() is None
    with pytest.raises(OSError, match="Broken pipe"):
        theirs.send({"late": True})
    theirs.close()


def test_memory_is_shared_and_grows() -> None:
    ours, theirs = channels()
    memory = SharedTensors()
    ours.send({"memory": True}, fd=memory.fd)
    received = theirs.receive()
    assert received is not None
    mirror = SharedTensors(received["fd"])
    assert mirror.fd != memory.fd
    for size in (3, 5000, 20):
        tensors = {
            "a": torch.randn(size, 7).t(),  # not contiguous
            "b": torch.randn(size, dtype=torch.float32).to(torch.bfloat16),
            "c": torch.tensor([size], dtype=torch.float16),
        }
        sent = json.loads(json.dumps([entry.to_json() for entry in memory.write(tensors)]))
        seen = mirror.views([Entry(**fields) for fields in sent])
        assert seen.keys() == tensors.keys()
        assert all(torch.equal(seen[name], tensor) for name, tensor in tensors.items())
        seen["a"][0, 0] = 42
        assert memory.views([Entry(**sent[0])])["a"][0, 0] == 42
        del seen
    for end in (memory, mirror, ours, theirs):
        end.close()


def test_a_job_survives_the_file(tmp_path: Path) -> None:
    job = RanksJob(
        program="package.module:program",
        arguments={"folder": "/models/one", "layers": [1, 2]},
        layout=Layout(axes={"outer": 2, "inner": 4}),
        device_type="npu",
        devices=(0, 1, 2, 3, 4, 5, 6, 7),
        timeouts=Timeouts(call=12.5),
    )
    job.write(tmp_path)
    assert RanksJob.read(tmp_path) == job
    with pytest.raises(ValueError, match="timeout beat must be above 0 s; got 0"):
        Timeouts(beat=0)


def test_layout_places() -> None:
    layout = Layout(axes={"outer": 2, "inner": 3})
    assert layout.size == 6
    found = [Place(layout=layout, rank=rank) for rank in range(6)]
    assert [place.part("inner") for place in found] == [(0, 3), (1, 3), (2, 3)] * 2
    assert [place.part("outer") for place in found] == [(0, 2)] * 3 + [(1, 2)] * 3
    assert [place.part(ALL) for place in found] == [(rank, 6) for rank in range(6)]
    with pytest.raises(KeyError, match="no axis is named 'other'; there are outer, inner"):
        found[0].part("other")
    for axes in ({ALL: 2}, {"inner": 0}):
        with pytest.raises(ValueError, match="an axis must have"):
            Layout(axes=axes)


def test_npu_environment_of_the_contract() -> None:
    assert environment(kind_of("npu"), (2, 3)) == {
        "ASCEND_RT_VISIBLE_DEVICES": "2,3",
        "DEVICE_COUNT": "2",
        "HCCL_TIMEOUT": "7200",
        "HCCL_BUFFSIZE": "2048",
        "HCCL_SINGLE_NODE": "1",
        "ACL_STREAM_TIMEOUT": "7200",
        "PYTORCH_NPU_ALLOC_CONF": "max_split_size_mb:512",
        "TOKENIZERS_PARALLELISM": "false",
    }
    assert environment(kind_of("cuda"), (2, 3)) == {}


def test_ranks_share_the_cores_and_stay_on_this_machine() -> None:
    cores = len(os.sched_getaffinity(0))
    for count in (2, 4, 8):
        values = rank_environment(kind_of("cpu"), range(count))
        assert int(values["OMP_NUM_THREADS"]) == max(1, cores // count)
        assert values["GLOO_SOCKET_IFNAME"] == "lo"


def test_backends() -> None:
    assert {name: kind_of(name).backend for name in ("cpu", "cuda", "npu")} == {
        "cpu": "gloo",
        "cuda": "nccl",
        "npu": "hccl",
    }
    with pytest.raises(InvalidInput, match="device type must be one of cpu, cuda, npu; got 'tpu'"):
        kind_of("tpu")
