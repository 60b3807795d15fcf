"""The statistics of `darkroom bench`."""

from __future__ import annotations

import io
import random
import statistics

import pytest
from darkroom_client.bench import report
from darkroom_client.bench.apis import Options
from darkroom_client.bench.figures import Level, Sample, percentile, spread
from darkroom_client.bench.load import Plan
from darkroom_client.bench.prompts import PROMPTS, shot
from rich.console import Console


def sample(seconds: float, *, started: float = 0.0, **more: object) -> Sample:
    return Sample(started=started, seconds=seconds, **{"images": 1, **more})  # type: ignore[arg-type]


def run_of(*levels: Level, stream: bool = False) -> report.Run:
    options = Options(size=(64, 64), steps=4, stream=stream)
    return report.Run(
        url="http://a", api="native", started="2026-01-01T00:00:00+00:00", options=options, plan=Plan(), levels=levels
    )


def shown(run: report.Run) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.table(run))
    return console.export_text()


def test_percentiles_are_nearest_ranks_of_a_hundred() -> None:
    values = [float(n) for n in range(1, 101)]
    random.Random(1).shuffle(values)
    assert (percentile(values, 50), percentile(values, 95), percentile(values, 99)) == (50.5, 95.0, 99.0)


def test_percentiles_agree_with_the_standard_library() -> None:
    values = [random.Random(2).expovariate(1.0) for _ in range(5000)]
    cuts = statistics.quantiles(values, n=100)
    for percent in (95, 99):
        assert percentile(values, percent) == pytest.approx(cuts[percent - 1], rel=0.05)


@pytest.mark.parametrize(("percent", "needed"), [(50, 1), (95, 20), (99, 100)])
def test_percentile_of_too_few_values_is_none(percent: int, needed: int) -> None:
    assert percentile([1.0] * (needed - 1), percent) is None
    assert percentile([1.0] * needed, percent) == 1.0


def test_largest_value_is_no_p95() -> None:
    values = [1.0] * 19 + [100.0]
    assert percentile(values, 95) == 1.0
    assert spread(values).largest == 100.0


def test_spread_of_nothing_has_no_figures() -> None:
    empty = spread([])
    assert (empty.count, empty.mean, empty.p50, empty.largest) == (0, None, None, None)


def test_images_per_second_counts_from_the_first_start_to_the_last_end() -> None:
    level = Level(concurrency=2)
    level.samples = [
        sample(2.0, started=0.5),
        sample(3.0, started=1.5, images=4),
        sample(0.1, started=0.6, images=0, error="429"),
    ]
    assert level.seconds == pytest.approx(4.0)
    assert level.images == 5
    assert level.images_per_second == pytest.approx(1.25)


def test_failures_are_no_latency() -> None:
    level = Level(concurrency=1, samples=[sample(1.0), sample(0.001, images=0, error="timeout")])
    assert level.latency.count == 1
    assert level.latency.p50 == 1.0
    assert level.errors == {"timeout": 1}


def test_level_without_images_has_no_rate() -> None:
    level = Level(concurrency=1, samples=[sample(1.0, images=0, error="500")])
    assert level.images_per_second is None
    assert "-" in shown(run_of(level))


def test_table_shows_the_figures_and_what_they_lack() -> None:
    level = Level(concurrency=4, complete=True)
    level.samples = [sample(n / 10, started=n, first_preview=0.05) for n in range(1, 25)]
    level.samples.append(sample(0.1, images=0, error="429 queue_full"))
    run = run_of(level, stream=True)
    text = shown(run)
    assert "1.250" in text, "the median of 0.1 to 2.4"
    assert "0.050" in text
    assert "2.300" in text, "P95"
    notes = report.notes(run)
    assert notes == [
        "P99 needs 100 answers; too few with clients: 4 (24).",
        "Errors with 4 client(s): 1 x 429 queue_full.",
    ]


def test_incomplete_level_is_marked() -> None:
    run = run_of(Level(concurrency=1, samples=[sample(1.0)]))
    assert "1 *" in shown(run)
    assert "* was not measured to its end." in report.notes(run)


def test_json_has_every_request() -> None:
    level = Level(concurrency=1, samples=[sample(1.0), sample(2.0)], complete=True)
    made = report.as_json(run_of(level))
    assert [one["seconds"] for one in made["levels"][0]["samples"]] == [1.0, 2.0]
    assert made["levels"][0]["latency"]["p50"] == 1.5
    assert made["levels"][0]["latency"]["p99"] is None
    assert made["plan"]["levels"] == [1, 2, 4, 8]
    assert made["request"]["size"] == (64, 64)


def test_requests_of_a_place_are_always_the_same() -> None:
    assert shot(3) == shot(3)
    assert len({shot(index).seed for index in range(100)}) == 100
    assert [shot(index).prompt for index in range(16)] == list(PROMPTS)
    assert shot(len(PROMPTS)).prompt == PROMPTS[0]
