"""Ranks run whatever program a job names: here sums, without a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import torch

from darkroom.parallel.job import RanksJob, Timeouts
from darkroom.parallel.layout import Layout
from darkroom.parallel.ranks import Ranks, RanksFailed
from tests.parallel_models import own_temporary_folder, private_folders, ranks_below, wait_gone


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    with own_temporary_folder():
        below = ranks_below()
        yield
        assert not wait_gone([process for process in ranks_below() if process not in below])
        assert not private_folders()


def started(program: str, axes: dict[str, int], **arguments: Any) -> Ranks:
    layout = Layout(axes=axes)
    job = RanksJob(
        program=program,
        arguments=arguments,
        layout=layout,
        device_type="cpu",
        devices=tuple(range(layout.size)),
        timeouts=Timeouts(start=300, call=120, beat=60),
    )
    return Ranks(job, on_failure=lambda: None)


def test_ranks_run_a_program_that_sums() -> None:
    with closing(started("tests.rank_programs:weighted_sum", {"all_of_them": 2}, weights=[2, 5])) as ranks:
        ranks.wait_ready()
        for x in (torch.arange(6.0).view(2, 3), torch.ones(50_000, dtype=torch.bfloat16)):
            answer = ranks.call({"x": x}, x.shape)
            assert answer.dtype == torch.float32
            assert torch.equal(answer, 7 * x.float())
        assert [rank["parameters"] for rank in ranks.status()] == [1, 1]


def test_ranks_have_a_group_along_each_axis() -> None:
    """Rank 0 answers, and sums over the ranks of the second axis that stand beside it: 0 and 1."""
    weights, axes = [2, 5, 100, 1000], {"outer": 2, "inner": 2}
    with closing(started("tests.rank_programs:weighted_sum", axes, weights=weights, axis="inner")) as ranks:
        ranks.wait_ready()
        assert ranks.call({"x": torch.ones(3)}, (3,)).tolist() == [7, 7, 7]


def test_ranks_say_why_a_program_failed() -> None:
    with closing(started("tests.rank_programs:refuses", {"one": 2}, what="nothing")) as ranks:
        ranks.wait_ready()
        with pytest.raises(RanksFailed, match="rank 1 failed: ValueError: cannot take nothing"):
            ranks.call({"x": torch.ones(1)}, (1,))


@pytest.mark.parametrize("program", ["tests.rank_programs:no_such_function", "tests.no_such_module:program"])
def test_ranks_name_a_program_that_is_not_there(program: str) -> None:
    with closing(started(program, {"one": 2})) as ranks, pytest.raises(RanksFailed, match="no_such_"):
        ranks.wait_ready()
