"""What Triton's metrics say of one model: rows, executions and times. The text is in Prometheus' format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.errors import BenchmarkError
from proxy.network_metrics import samples

DURATIONS = ("request", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What Triton counted for one model since it started. Sharing batches means more rows than executions."""

    rows: int
    executions: int

    def since(self, before: Counts) -> Counts:
        """What was added."""
        return Counts(rows=self.rows - before.rows, executions=self.executions - before.executions)

    @property
    def rows_per_execution(self) -> float | None:
        """The mean batch; None when nothing ran."""
        return self.rows / self.executions if self.executions else None


@dataclass(frozen=True, kw_only=True)
class Durations:
    """Seconds that Triton counted for one model since it started, by what they were spent on (`DURATIONS`)."""

    executions: int
    seconds: Mapping[str, float]

    def since(self, before: Durations) -> Durations:
        """What was added."""
        added = {name: value - before.seconds[name] for name, value in self.seconds.items()}
        return Durations(executions=self.executions - before.executions, seconds=added)


def counter(text: str, name: str, model: str) -> float:
    """A counter or gauge of one model in Prometheus' text format; the sum where each device has a sample.

    :raises BenchmarkError: there is no sample, as for a model that is not loaded.
    """
    found = [value for labels, value in samples(text, name) if labels.get("model") == model]
    if not found:
        raise BenchmarkError(f"Triton's metrics have no {name} of {model}.")
    return sum(found)


def counts(text: str, model: str) -> Counts:
    """Rows inferred and executions of a model; canaries count as well."""
    rows, executions = (int(counter(text, f"nv_inference_{name}", model)) for name in ("count", "exec_count"))
    return Counts(rows=rows, executions=executions)


def durations(text: str, model: str) -> Durations:
    """What the requests to a model spent their time on."""
    spent = {name: counter(text, f"nv_inference_{name}_duration_us", model) / 1e6 for name in DURATIONS}
    return Durations(executions=int(counter(text, "nv_inference_exec_count", model)), seconds=spent)
