"""`darkroom.serving.batching`: which calls run together, and what each gets back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from darkroom.serving.batching import (
    BatchDimensionError,
    NetworkCall,
    RequestError,
    Run,
    SessionsByShape,
    decode_strings,
    groups,
    pad_to_cap,
    run_calls,
    run_together,
)
from darkroom.serving.networks import RowCaps


def call(*shape: int, value: float = 0, outputs: Sequence[str] = ("y",)) -> NetworkCall:
    return NetworkCall({"x": np.full(shape, value, np.float32)}, list(outputs))


def test_groups_have_equal_shapes_behind_the_batch_dimension() -> None:
    calls = [call(1, 2), call(1, 3), call(4, 2), call(1, 2, 1), call(2, 3)]
    assert groups(calls, batching=True) == [[0, 2], [1, 4], [3]]


def test_groups_without_batching_have_one_call_each() -> None:
    assert groups([call(2), call(2)], batching=False) == [[0], [1]]


def test_groups_are_limited_by_rows_by_size() -> None:
    caps = RowCaps.parse("x 16:4 64:2")
    small = [call(1, 3, 4, 4) for _ in range(6)]
    assert groups(small, batching=True, caps=caps) == [[0, 1, 2, 3], [4, 5]]
    larger = [call(rows, 3, 8, 8) for rows in (1, 1, 2, 1, 5, 1)]
    assert groups(larger, batching=True, caps=caps) == [[0, 1], [2], [3], [4], [5]]
    largest = [call(1, 3, 9, 9), call(1, 3, 4, 4), call(1, 3, 9, 9)]
    assert groups(largest, batching=True, caps=caps) == [[0], [2], [1]]


@pytest.mark.parametrize("text", ["x", "x 16", "x 16:0", "x a:2", "x 16:2:3"])
def test_rows_by_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        RowCaps.parse(text)


def test_merged_run_is_one_run_and_its_answers_are_views_of_the_output() -> None:
    runs: list[np.ndarray] = []

    def run(outputs: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        runs.append(inputs["x"] * 2)
        return [runs[-1] for _ in outputs]

    first, second = run_together(run, [call(1, 2, value=1), call(2, 2, value=5)], batching=True)
    assert len(runs) == 1
    assert first["y"].tolist() == [[2, 2]]
    assert second["y"].tolist() == [[10, 10], [10, 10]]
    assert first["y"].base is runs[0]
    assert second["y"].base is runs[0]


def test_single_call_is_not_copied() -> None:
    alone = call(2, 2)
    seen: list[np.ndarray] = []

    def run(_: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        seen.append(inputs["x"])
        return [inputs["x"]]

    run_together(run, [alone], batching=True)
    assert seen[0] is alone.inputs["x"]


def test_sessions_by_shape_keep_a_shape_with_the_session_that_had_it_last() -> None:
    ran: list[tuple[str, int]] = []

    def session(name: str) -> Run:
        def run(_: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            ran.append((name, len(inputs["x"])))
            return [inputs["x"]]

        return run

    sessions = SessionsByShape([session("a"), session("b")])
    for rows in (2, 8, 2, 8, 8, 4, 8, 4, 2):
        sessions(["y"], call(rows).inputs)
    assert ran == [("a", 2), ("b", 8), ("a", 2), ("b", 8), ("b", 8), ("a", 4), ("b", 8), ("a", 4), ("b", 2)]


def test_sessions_by_shape_use_a_session_again_after_an_error() -> None:
    def run(_: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        if len(inputs["x"]) == 8:
            raise MemoryError
        return [inputs["x"]]

    sessions = SessionsByShape([run])
    with pytest.raises(MemoryError):
        sessions(["y"], call(8).inputs)
    assert sessions(["y"], call(2).inputs)[0].shape == (2,)


def test_padding_is_not_in_the_answers() -> None:
    seen: list[np.ndarray] = []

    def run(_: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        seen.append(inputs["x"])
        return [inputs["x"], inputs["x"][:1]]  # the second is not the batch, which is for others to notice

    padded = pad_to_cap(run, RowCaps.parse("x 16:4 64:1"), above=1, most=8)
    rows = np.arange(3, dtype=np.float32).reshape(3, 1, 1)
    answer, other = padded(["y", "z"], {"x": rows})
    assert seen[0].ravel().tolist() == [0, 1, 2, 2]
    assert answer.tolist() == rows.tolist()
    assert len(other) == 1
    for unfilled in (rows[:1], np.zeros((5, 1, 1), np.float32), np.zeros((3, 8, 8), np.float32)):
        padded(["y", "z"], {"x": unfilled})
        assert seen[-1] is unfilled


def test_padding_stops_at_the_largest_batch_and_is_left_out_where_it_fails() -> None:
    sizes: list[int] = []

    def run(_: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        sizes.append(len(inputs["x"]))
        if len(inputs["x"]) > 4:
            raise MemoryError
        return [inputs["x"]]

    caps, rows = RowCaps.parse("x 16:8"), {"x": np.zeros((3, 1, 1), np.float32)}
    assert pad_to_cap(run, caps, above=2, most=4)(["y"], rows)[0].shape == (3, 1, 1)
    assert pad_to_cap(run, caps, above=2, most=8)(["y"], rows)[0].shape == (3, 1, 1)
    assert sizes == [4, 8, 3]


def test_merged_run_asks_only_for_outputs_that_a_call_asks_for() -> None:
    asked: list[Sequence[str]] = []

    def run(outputs: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        asked.append(outputs)
        return [inputs["x"] for _ in outputs]

    answers = run_together(run, [call(1, outputs=["a"]), call(1, outputs=["c", "a"])], batching=True)
    assert asked == [["a", "c"]]
    assert [list(answer) for answer in answers] == [["a"], ["c", "a"]]


def test_merged_run_without_memory_is_repeated_call_by_call() -> None:
    sizes: list[int] = []

    def run(_: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        sizes.append(len(inputs["x"]))
        if len(inputs["x"]) > 1:
            raise MemoryError
        return [inputs["x"]]

    small, large, other = run_together(run, [call(1), call(2), call(1, value=3)], batching=True)
    assert sizes == [4, 1, 2, 1]
    assert small["y"].tolist() == [0]
    assert isinstance(large, MemoryError)
    assert other["y"].tolist() == [3]


def test_run_calls_answers_in_the_order_of_the_calls() -> None:
    sizes: list[tuple[int, ...]] = []

    def run(_: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        sizes.append(inputs["x"].shape)
        return [inputs["x"]]

    calls = [call(1, 2, value=1), call(1, 3, value=2), call(2, 2, value=3), call(1, 3, value=4)]
    answers = run_calls(run, calls, batching=True)
    assert sizes == [(3, 2), (2, 3)]
    assert [answer["y"][0, 0] for answer in answers if not isinstance(answer, Exception)] == [1, 2, 3, 4]


def test_run_calls_gives_an_error_to_its_own_call_only() -> None:
    def run(_: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        if (inputs["x"] < 0).any():
            raise ValueError("negative")
        return [inputs["x"]]

    first, bad, last = run_calls(run, [call(1, value=1), call(1, value=-1), call(1, value=3)], batching=True)
    assert isinstance(bad, ValueError)
    assert not isinstance(first, Exception)
    assert not isinstance(last, Exception)
    assert (first["y"].tolist(), last["y"].tolist()) == ([1], [3])


def test_output_without_the_batch_dimension_fails_without_a_second_run() -> None:
    runs: list[int] = []

    def run(_: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        runs.append(len(inputs["x"]))
        return [inputs["x"][:1]]

    answers = run_calls(run, [call(1), call(1)], batching=True)
    assert all(isinstance(answer, BatchDimensionError) for answer in answers)
    assert runs == [2]


def test_string_that_is_not_utf8_names_its_input() -> None:
    assert decode_strings("x", np.array([[b"a", "é".encode()]], np.object_)).tolist() == [["a", "é"]]
    with pytest.raises(RequestError, match="input 'x' has an element that is not valid UTF-8"):
        decode_strings("x", np.array([b"\xff"], np.object_))
