"""Merges calls of equal shapes along the first dimension, runs the network once, and splits the outputs.

Plain numpy, for every network that runs in a Python process: knows neither Triton nor an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from darkroom import tracing
from darkroom.serving.loras import RowLoras
from darkroom.serving.measures import RECORDER, ROWS, RUN, UNBATCHED
from darkroom.serving.networks import Array, RowCaps, Tensors

Run = Callable[[Sequence[str], Tensors], Sequence[Array]]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Names of inputs and their shapes."""


class RequestError(Exception):
    """The request itself is wrong; the message is for the client."""


class BatchDimensionError(Exception):
    """The graph gave an output whose first dimension is not the batch."""


@dataclass(frozen=True)
class NetworkCall:
    """One request to a network: its input arrays by name, and the names of the outputs that it asks for.

    :param loras: the LoRAs of its rows, as `RowLoras.to_text` writes them.
    :param network: its name, for its span.
    :param traceparent: the span that made the call; "" where it is not traced.
    """

    inputs: Tensors
    outputs: Sequence[str]
    loras: str = ""
    network: str = ""
    traceparent: str = ""

    @property
    def rows(self) -> int:
        """The size of the first dimension, which Triton has made sure is the same for all inputs."""
        return int(next(iter(self.inputs.values())).shape[0])


def decode_strings(name: str, values: Array) -> Array:
    """Decode BYTES from Triton, (...) of bytes, into the strings that ONNX Runtime takes, (...) of str.

    :raises RequestError: an element is not UTF-8. ONNX Runtime would read the bytes as the text "b'...'".
    """
    try:
        texts = [value.decode("utf-8") for value in values.reshape(-1)]
    except UnicodeDecodeError as error:
        raise RequestError(f"input '{name}' has an element that is not valid UTF-8: {error}") from error
    return np.array(texts, dtype=np.object_).reshape(values.shape)


def groups(calls: Sequence[NetworkCall], *, batching: bool, caps: RowCaps | None = None) -> list[list[int]]:
    """Return the positions of calls that can run together: equal inputs and equal shapes behind the batch dimension.

    Without `batching` every call runs alone. A call is never split, even when it has more rows than its cap.
    Calls with and without LoRAs run together.
    """
    if not batching:
        return [[index] for index in range(len(calls))]
    found: dict[Shapes, list[int]] = {}
    for index, call in enumerate(calls):
        found.setdefault(_shapes(call), []).append(index)
    if caps is None:
        return list(found.values())
    return [part for group in found.values() for part in _parts(group, calls, caps.most(calls[group[0]].inputs))]


def _shapes(call: NetworkCall) -> Shapes:
    return tuple(sorted((name, array.shape[1:]) for name, array in call.inputs.items()))


def _parts(group: list[int], calls: Sequence[NetworkCall], most: int) -> list[list[int]]:
    """The calls of a group in their order, in parts of at most `most` rows."""
    parts: list[list[int]] = []
    rows = most
    for index in group:
        rows += calls[index].rows
        if rows > most or not parts:
            parts.append([])
            rows = calls[index].rows
        parts[-1].append(index)
    return parts


class SessionsByShape:
    """One network, opened several times; each session keeps the shapes that it ran last.

    ONNX Runtime's CUDA convolutions make a new plan for every call whose shapes differ from the call before, which
    takes as long as many calls (docs/decisions/0015-shapes-on-a-gpu.md). So a call goes to the session that had its
    shapes last, and a call with new shapes goes to the session that was used least recently.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._sessions: list[tuple[Run, Shapes | None]] = [(run, None) for run in runs]
        """Each session with the shapes of its last run, least recently used first."""

    def __call__(self, outputs: Sequence[str], inputs: Tensors) -> Sequence[Array]:
        shapes = tuple(sorted((name, array.shape) for name, array in inputs.items()))
        index = next((i for i, (_, last) in enumerate(self._sessions) if last == shapes), 0)
        run, _ = self._sessions.pop(index)
        self._sessions.append((run, shapes))
        return run(outputs, inputs)


def pad_to_cap(run: Run, caps: RowCaps, above: int, most: int) -> Run:
    """Wrap `run`: batches of more than `above` rows are padded to the number of rows that may run together, so that
    few different shapes occur.

    The padding consists of copies of the last row, whose answers are dropped. A batch that fails with padding runs
    again without it, because there may be no memory for more rows.

    :param caps: the number of rows that may run together, by size.
    :param most: the same for rows of any size.
    """

    def run_padded(outputs: Sequence[str], inputs: Tensors) -> Sequence[Array]:
        rows = len(next(iter(inputs.values())))
        missing = min(caps.most(inputs), most) - rows
        if rows <= above or missing <= 0:
            return run(outputs, inputs)
        full = {name: np.concatenate([array, np.repeat(array[-1:], missing, 0)]) for name, array in inputs.items()}
        try:
            answers = run(outputs, full)
        except Exception:  # an error that is not due to the padding is raised again by this run
            return run(outputs, inputs)
        return [array[:rows] if len(array) == rows + missing else array for array in answers]

    return run_padded


def run_calls(
    run: Run, calls: Sequence[NetworkCall], *, batching: bool, caps: RowCaps | None = None
) -> list[Tensors | Exception]:
    """Run calls of any shapes in as few runs as possible; returns the outputs or the error of each call, in order."""
    answers: dict[int, Tensors | Exception] = {}
    for group in groups(calls, batching=batching, caps=caps):
        if len(group) == 1:
            RECORDER.count(UNBATCHED, reason=_reason(calls[group[0]], calls, batching=batching))
        results = run_together(run, [calls[index] for index in group], batching=batching)
        answers.update(zip(group, results, strict=True))
    return [answers[index] for index in range(len(calls))]


def _reason(call: NetworkCall, calls: Sequence[NetworkCall], *, batching: bool) -> str:
    """Why a call runs alone that came with `calls`, itself among them."""
    if not batching:
        return "no_batching"
    if len(calls) == 1:
        return "alone"
    equal = sum(_shapes(other) == _shapes(call) for other in calls)
    return "row_limit" if equal > 1 else "other_shapes"


def run_together(run: Run, calls: Sequence[NetworkCall], *, batching: bool) -> list[Tensors | Exception]:
    """Return each call's outputs or its own error.

    When the merged run fails, every call runs again alone: a bad request, or one that is too large for the memory,
    must not fail the others of its batch. After a wrong batch dimension the calls do not run again, since the
    error would come and go with the load.

    :param calls: calls of one group.
    """
    try:
        return list(_run_merged(run, calls, batching=batching))
    except BatchDimensionError as error:
        return [error] * len(calls)
    except Exception as error:
        if len(calls) == 1:
            return [error]
    RECORDER.count(UNBATCHED, len(calls), reason="failed_together")
    return [answer for call in calls for answer in run_together(run, [call], batching=batching)]


def _loras(calls: Sequence[NetworkCall]) -> RowLoras:
    return RowLoras.of_rows([row for call in calls for row in RowLoras.from_text(call.loras, call.rows).rows()])


@contextmanager
def _traced(calls: Sequence[NetworkCall], total: int) -> Iterator[None]:
    """Make the execution a span in the trace of each call: all of them begin and end at the same moments."""
    with ExitStack() as spans:
        for call in calls:
            if call.traceparent:
                span = tracing.span(
                    "execute",
                    parent=call.traceparent,
                    current=False,
                    network=call.network,
                    rows=call.rows,
                    batch_rows=total,
                )
                spans.enter_context(span)
        yield


def _run_merged(run: Run, calls: Sequence[NetworkCall], *, batching: bool) -> list[Tensors]:
    wanted = list(dict.fromkeys(name for call in calls for name in call.outputs))
    inputs = calls[0].inputs
    if len(calls) > 1:
        inputs = {name: np.concatenate([call.inputs[name] for call in calls]) for name in inputs}
    if any(call.loras for call in calls):
        inputs = {**inputs, **_loras(calls).inputs()}
    total = sum(call.rows for call in calls) if batching else 1
    with RECORDER.timed(RUN), _traced(calls, total):
        outputs = dict(zip(wanted, run(wanted, inputs), strict=True))
    RECORDER.observe(ROWS, total)
    if not batching:
        return [outputs]
    for name, array in outputs.items():
        if array.shape[:1] != (total,):
            raise BatchDimensionError(
                f"output '{name}' came with shape {list(array.shape)} for a batch of {total}: "
                "where max_batch_size is above 0 the first dimension of every output has to be the batch"
            )
    answers: list[Tensors] = []
    start = 0
    for call in calls:
        # Views: rows of a C-ordered array lie together, and the response copies them out once.
        answers.append({name: outputs[name][start : start + call.rows] for name in call.outputs})
        start += call.rows
    return answers
