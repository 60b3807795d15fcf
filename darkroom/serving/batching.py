"""Requests into runs: merge requests of equal shapes along the first dimension, run once, split the outputs.

Plain numpy, for every network that runs in a Python process: knows neither Triton nor an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from darkroom.serving.networks import Array, RowCaps, Tensors

Run = Callable[[Sequence[str], Tensors], Sequence[Array]]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Names of inputs and their shapes."""


class RequestError(Exception):
    """The request's own fault; the message is for its sender."""


class BatchDimensionError(Exception):
    """The graph gave an output whose first dimension is not the batch."""


@dataclass(frozen=True)
class Job:
    """One request: its input arrays by name, and the names of the outputs that it asks for."""

    inputs: Tensors
    outputs: Sequence[str]

    @property
    def rows(self) -> int:
        """The size of the first dimension, which Triton has made sure is the same for all inputs."""
        return int(next(iter(self.inputs.values())).shape[0])


def decode_strings(name: str, values: Array) -> Array:
    """BYTES as Triton gives them, (...) of bytes, to what ONNX Runtime takes, (...) of str.

    :raises RequestError: an element is not UTF-8. ONNX Runtime would take the bytes for the text "b'...'".
    """
    try:
        texts = [value.decode("utf-8") for value in values.reshape(-1)]
    except UnicodeDecodeError as error:
        raise RequestError(f"input '{name}' has an element that is not valid UTF-8: {error}") from error
    return np.array(texts, dtype=np.object_).reshape(values.shape)


def groups(jobs: Sequence[Job], *, batching: bool, caps: RowCaps | None = None) -> list[list[int]]:
    """The positions of jobs that can run together: equal inputs and equal shapes behind the batch dimension.

    Without `batching` every job runs alone. A job is never divided, even when it has more rows than its cap.
    """
    if not batching:
        return [[index] for index in range(len(jobs))]
    found: dict[tuple[tuple[str, tuple[int, ...]], ...], list[int]] = {}
    for index, job in enumerate(jobs):
        key = tuple(sorted((name, array.shape[1:]) for name, array in job.inputs.items()))
        found.setdefault(key, []).append(index)
    if caps is None:
        return list(found.values())
    return [part for group in found.values() for part in _parts(group, jobs, caps.most(jobs[group[0]].inputs))]


def _parts(group: list[int], jobs: Sequence[Job], most: int) -> list[list[int]]:
    """The jobs of a group in their order, in parts of at most `most` rows."""
    parts: list[list[int]] = []
    rows = most
    for index in group:
        rows += jobs[index].rows
        if rows > most or not parts:
            parts.append([])
            rows = jobs[index].rows
        parts[-1].append(index)
    return parts


class Engines:
    """One network several times, each with its plan for the shapes that it ran last.

    ONNX Runtime's CUDA convolutions build their plans anew for every call whose shapes are not those of the last one,
    which takes as long as many calls (docs/decisions/0015-shapes-on-a-gpu.md). So a call goes to the engine that had
    its shapes last, and one of new shapes to the engine that was used least recently.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._engines: list[tuple[Run, Shapes | None]] = [(run, None) for run in runs]
        """With the shapes that each had last; the one that ran last is the last."""

    def __call__(self, outputs: Sequence[str], inputs: Tensors) -> Sequence[Array]:
        shapes = tuple(sorted((name, array.shape) for name, array in inputs.items()))
        place = next((i for i, (_, last) in enumerate(self._engines) if last == shapes), 0)
        run, _ = self._engines.pop(place)
        self._engines.append((run, shapes))
        return run(outputs, inputs)


def filled(run: Run, caps: RowCaps, above: int, most: int) -> Run:
    """`run` with batches of more than `above` rows filled up to as many as may run together (by `caps`, and `most` of
    any size), so that there are few shapes. What fills them are copies of their last row, whose answers are dropped. A
    batch that fails when it is filled runs as it is: there may be no memory for more."""

    def run_filled(outputs: Sequence[str], inputs: Tensors) -> Sequence[Array]:
        rows = len(next(iter(inputs.values())))
        missing = min(caps.most(inputs), most) - rows
        if rows <= above or missing <= 0:
            return run(outputs, inputs)
        full = {name: np.concatenate([array, np.repeat(array[-1:], missing, 0)]) for name, array in inputs.items()}
        try:
            answers = run(outputs, full)
        except Exception:  # whatever it is, it is raised again if it has nothing to do with the filling
            return run(outputs, inputs)
        return [array[:rows] if len(array) == rows + missing else array for array in answers]

    return run_filled


def run_together(run: Run, jobs: Sequence[Job], *, batching: bool) -> list[Tensors | Exception]:
    """Each job's outputs, or the error that is its own.

    When the merged run fails, every job runs again alone: a bad request, or one too many for the memory, must
    not take its batch-mates along. A wrong batch dimension is not tried again, since it would come and go
    with the load.

    :param jobs: jobs of one group.
    """
    try:
        return list(_run_merged(run, jobs, batching=batching))
    except BatchDimensionError as error:
        return [error] * len(jobs)
    except Exception as error:
        if len(jobs) == 1:
            return [error]
    return [answer for job in jobs for answer in run_together(run, [job], batching=batching)]


def _run_merged(run: Run, jobs: Sequence[Job], *, batching: bool) -> list[Tensors]:
    wanted = list(dict.fromkeys(name for job in jobs for name in job.outputs))
    inputs = jobs[0].inputs
    if len(jobs) > 1:
        inputs = {name: np.concatenate([job.inputs[name] for job in jobs]) for name in inputs}
    outputs = dict(zip(wanted, run(wanted, inputs), strict=True))
    if not batching:
        return [outputs]
    total = sum(job.rows for job in jobs)
    for name, array in outputs.items():
        if array.shape[:1] != (total,):
            raise BatchDimensionError(
                f"output '{name}' came with shape {list(array.shape)} for a batch of {total}: "
                "where max_batch_size is above 0 the first dimension of every output has to be the batch"
            )
    answers: list[Tensors] = []
    start = 0
    for job in jobs:
        # Views: rows of a C-ordered array lie together, and the response copies them out once.
        answers.append({name: outputs[name][start : start + job.rows] for name in job.outputs})
        start += job.rows
    return answers
