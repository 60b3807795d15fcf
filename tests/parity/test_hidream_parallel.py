"""HiDream's transformer on several ranks against the same weights in one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.errors import InvalidInput
from darkroom.parallel.job import Timeouts
from darkroom.pipelines.hidream.distributed.layouts import layout_for
from darkroom.pipelines.hidream.distributed.transformer import DistributedTransformer
from darkroom.pipelines.hidream.transformer import load_transformer, predict
from tests.parallel_models import (
    make_inputs,
    own_temporary_folder,
    private_folders,
    ranks_below,
    relative_error,
    wait_gone,
    write_transformer,
)

TOLERANCE = 1e-4
"""Of the largest value, per step. The sums are the same but for their order; a token whose two best experts are equal
to the last digits could go elsewhere, and none of these is."""
SIZES = {"square": (3, 16, 16), "wide": (2, 8, 20), "high": (4, 24, 6), "one row": (1, 4, 4)}
LAYOUTS = [2, 4, pytest.param(8, marks=pytest.mark.heavy)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transformer(tmp_path_factory.mktemp("transformer"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return load_transformer(folder, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module", params=LAYOUTS, ids="{} ranks".format)
def distributed(folder: Path, request: pytest.FixtureRequest) -> Iterator[DistributedTransformer]:
    started: list[DistributedTransformer] = []

    def start() -> None:
        count: int = request.param
        timeouts = Timeouts(start=300, call=120, beat=60)
        started.append(
            DistributedTransformer(
                folder, device_type="cpu", devices=range(count), dtype=torch.float32, timeouts=timeouts
            )
        )

    with own_temporary_folder():
        # In a thread that ends: the ranks are not to go with it.
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        below = ranks_below()
        assert len(below) == 1 + request.param
        yield started[0]
        started[0].close()
        assert not wait_gone(below)
        assert not private_folders()


@pytest.mark.parametrize("size", SIZES)
def test_ranks_predict_what_one_process_predicts(
    distributed: DistributedTransformer, reference: Any, size: str
) -> None:
    inputs = make_inputs(*SIZES[size])
    ours, theirs = distributed(inputs), predict(reference, inputs)
    assert distributed.status()["mode"] == "distributed", distributed.status()["reason"]
    assert ours.shape == theirs.shape == inputs["hidden_states"].shape
    assert ours.dtype == torch.float32
    assert relative_error(ours, theirs) <= TOLERANCE


def test_steps_one_after_the_other_do_not_drift(distributed: DistributedTransformer, reference: Any) -> None:
    """A loop of Euler steps, each prediction made from what the ranks have predicted before."""
    inputs = make_inputs(2, 8, 12, seed=1)
    for step in range(6):
        inputs["timesteps"] = torch.tensor([999.0 - 150 * step, 700 - 100 * step])
        ours = distributed(inputs)
        assert relative_error(ours, predict(reference, inputs)) <= TOLERANCE
        inputs["hidden_states"] = inputs["hidden_states"] + ours / 6
    assert distributed.status()["mode"] == "distributed"


def test_bad_inputs_cost_no_rank(distributed: DistributedTransformer) -> None:
    with pytest.raises(InvalidInput, match="pooled_embeds must be"):
        distributed({**make_inputs(1, 8, 8), "pooled_embeds": torch.zeros(1, 7)})
    assert distributed(make_inputs(1, 8, 8)).shape == (1, 4, 8, 8)
    assert distributed.status()["mode"] == "distributed"


def test_status_tells_what_runs_where(distributed: DistributedTransformer, reference: Any) -> None:
    status = distributed.status()
    count = len(status["ranks"])
    layout = layout_for(count)
    whole = sum(parameter.numel() for parameter in reference.parameters())
    assert status["layout"] == dict(layout.axes)
    assert [rank["rank"] for rank in status["ranks"]] == list(range(count))
    assert len({rank["pid"] for rank in status["ranks"]}) == count
    assert all(rank["alive"] and rank["device"] == "cpu" for rank in status["ranks"])
    assert all(0 < rank["parameters"] < 0.62 * whole for rank in status["ranks"])
    assert status["reason"] is None
