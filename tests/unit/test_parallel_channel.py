"""Messages and tensors between leader and ranks, what may be asked, and what devices need."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.errors import InvalidInput
from darkroom.parallel.channel import Channel, Entry, SharedTensors
from darkroom.parallel.devices import environment, kind_of, rank_environment
from darkroom.parallel.inputs import check_inputs
from darkroom.parallel.job import Job, Timeouts
from darkroom.parallel.layout import layout_for
from tests.parallel_models import make_inputs

CONFIG = {
    "caption_channels": [24, 16],
    "patch_size": 2,
    "in_channels": 4,
    "text_emb_dim": 20,
    "llama_layers": [0, 2],
    "max_resolution": [16, 16],
}


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
    job = Job(
        folder="/models/transformer",
        layout=layout_for(8),
        device_type="npu",
        devices=(0, 1, 2, 3, 4, 5, 6, 7),
        dtype="bfloat16",
        timeouts=Timeouts(call=12.5),
    )
    job.write(tmp_path)
    assert Job.read(tmp_path) == job
    with pytest.raises(ValueError, match="timeout beat must be above 0 s; got 0"):
        Timeouts(beat=0)


def test_good_inputs_pass() -> None:
    for rows, height, width in ((1, 8, 8), (3, 8, 12), (2, 32, 32), (1, 64, 4)):
        check_inputs(CONFIG, make_inputs(rows, height, width))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("timesteps", torch.zeros(3), r"timesteps must be .* of shape \(2\); got float32 \(3\)"),
        ("timesteps", torch.zeros(2, dtype=torch.int64), "timesteps must be float32 or .*; got int64"),
        ("hidden_states", torch.zeros(2, 5, 8, 8), r"hidden_states .* \(2, 4, H, W\); got float32 \(2, 5, 8, 8\)"),
        ("hidden_states", torch.zeros(2, 4, 8), r"hidden_states .* got float32 \(2, 4, 8\)"),
        ("hidden_states", torch.zeros(0, 4, 8, 8), r"hidden_states .* got float32 \(0, 4, 8, 8\)"),
        ("hidden_states", torch.tensor(1.0), r"hidden_states .* got float32 \(\)"),
        ("hidden_states", torch.zeros(2, 4, 8, 7), "multiples of 2; got 8 x 7"),
        ("hidden_states", torch.zeros(2, 4, 8, 34), "H x W of at most 256; got 8 x 34"),
        ("encoder_hidden_states_t5", torch.zeros(2, 5, 25), r"t5 .* \(2, S, 24\); got float32 \(2, 5, 25\)"),
        ("encoder_hidden_states_llama3", torch.zeros(2, 2, 5, 16), "llama3 must have L at least 3; got 2"),
        ("pooled_embeds", torch.zeros(2, 19), r"pooled_embeds .* \(2, 20\); got float32 \(2, 19\)"),
    ],
)
def test_bad_inputs_are_refused_before_a_rank_sees_them(name: str, tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_inputs(CONFIG, {**make_inputs(2, 8, 8), name: tensor})


def test_inputs_that_are_missing_or_unknown_are_refused() -> None:
    inputs: dict[str, Any] = make_inputs(1, 8, 8)
    with pytest.raises(InvalidInput, match=r"got .*pooled_embeds, guidance"):
        check_inputs(CONFIG, {**inputs, "guidance": torch.zeros(1)})
    del inputs["timesteps"]
    with pytest.raises(InvalidInput, match="inputs must be hidden_states, timesteps"):
        check_inputs(CONFIG, inputs)


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
