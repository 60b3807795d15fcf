"""The parts of the benchmarks that need no service: order and statistics, reports, perf_analyzer's files."""

from __future__ import annotations

import base64
import json

import pytest
from click.testing import CliRunner

from benchmarks import estimates, machine, perf_analyzer
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.errors import BenchmarkError
from benchmarks.metrics import Counts
from benchmarks.results import Finding, Report, Section, Table, findings_table, shown, to_json, to_markdown
from benchmarks.timing import in_turns, percentile, ratio

# Reports of perf_analyzer 2.51.0 (-f): a network, and the decoupled pipeline with --streaming.
NETWORK_CSV = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
2,0.888267,1021,19638,875421,62,981458,24317,6,1987505,2234838,2513772,2513772"""
PIPELINE_CSV = """\
Concurrency,Inferences/Second,Response Throughput,Client Send,Network+Server Send/Recv,Server Queue,\
Server Compute Input,Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,\
p99 latency
1,0.221881,0.887523,0,4467566,110,146,1985,130,0,4929765,4977778,4977778,4977778"""


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([7.0], 50, 7.0), ([3, 1, 2], 50, 2), ([4, 3, 2, 1], 50, 2), (range(1, 101), 95, 95), (range(1, 8), 99, 7)],
)
def test_percentile_is_a_measured_value(values: list[float], percent: float, expected: float) -> None:
    assert percentile(list(values), percent) == expected


def test_rounds_alternate_and_the_first_does_not_count() -> None:
    ran: list[str] = []

    def variant(name: str) -> float:
        ran.append(name)
        return float(len(ran))

    rounds: list[int] = []
    seconds = in_turns({"a": lambda: variant("a"), "b": lambda: variant("b")}, rounds=2, on_round=rounds.append)
    assert "".join(ran) == "abbaab"
    assert seconds == {"a": [4.0, 5.0], "b": [3.0, 6.0]}
    assert rounds == [1, 2, 3]


def test_ratio_is_the_median_of_the_rounds_with_their_spread() -> None:
    finding = ratio("x", [2.0, 4.0, 9.0], [2.0, 2.0, 3.0], target=2.0)
    assert (finding.value, finding.quartiles, finding.rounds, finding.met) == (2.0, (1.0, 3.0), 3, True)
    assert ratio("x", [1.0], [2.0]).quartiles is None


@pytest.mark.parametrize(
    ("value", "target", "at_least", "met"),
    [
        (1.1, 1.1, False, True),
        (1.2, 1.1, False, False),
        (4, 4, True, True),
        (3.9, 4, True, False),
        (1, None, True, None),
    ],
)
def test_targets(value: float, target: float | None, at_least: bool, met: bool | None) -> None:
    assert Finding(name="x", value=value, target=target, at_least=at_least).met is met


def test_shown() -> None:
    cells = [None, 1234.5, 0.012345, 12.345, 1234567, "text"]
    assert [shown(cell) for cell in cells] == ["–", "1,234", "0.0123", "12.3", "1,234,567", "text"]


REPORT = Report(
    date="2026-01-02 03:04 UTC",
    quick=True,
    machine={"cpu": "Some CPU", "cores": "2", "numpy": "1.26.4"},
    sections=(
        Section(
            name="one",
            title="First",
            findings=(
                Finding(name="a / b", value=1.05, quartiles=(1.01, 1.09), rounds=5, target=1.1),
                Finding(name="memory", value=3.5, unit="GB", target=3.0),
            ),
            tables=(Table(title="Figures", columns=("what", "ms"), rows=(("x|y", 1.5),), note="A note."),),
        ),
        Section(name="two", title="Second", missing="no such program."),
    ),
)


def test_findings_of_all_sections_in_one_table() -> None:
    assert findings_table(REPORT.sections).rows == (
        ("a / b", "1.050", "1.010 … 1.090", "≤ 1.1", "yes", 5),
        ("memory", "3.500 GB", None, "≤ 3 GB", "NO", 1),
    )


def test_markdown_has_machine_ratios_figures_and_what_is_missing() -> None:
    lines = to_markdown(REPORT).splitlines()
    assert lines[0] == "# Benchmarks on Some CPU, 2 cores"
    for line in (
        "| numpy | 1.26.4 |",
        "| a / b | 1.050 | 1.010 … 1.090 | ≤ 1.1 | yes | 5 |",
        "**Figures**",
        "| x\\|y | 1.5 |",
        "A note.",
        "Not run: no such program.",
    ):
        assert line in lines
    assert any("--quick" in line for line in lines)


def test_json_keeps_everything_and_says_what_is_met() -> None:
    content = json.loads(to_json(REPORT))
    assert [found["met"] for found in content["sections"][0]["findings"]] == [True, False]
    assert content["sections"][0]["tables"][0]["rows"] == [["x|y", 1.5]]
    assert content["sections"][1]["missing"] == "no such program."
    assert content["machine"]["cpu"] == "Some CPU"


def test_machine_slug() -> None:
    names = {
        "Intel(R) Xeon(R) Processor": "intel-xeon-2-cores",
        "Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz": "intel-core-i7-8700-2-cores",
        "AMD EPYC 7763 64-Core Processor": "amd-epyc-7763-64-core-2-cores",
    }
    assert {name: machine.slug({"cpu": name, "cores": "2"}) for name in names} == names


def test_machine_is_described() -> None:
    described = machine.describe()
    assert {"cpu", "cores", "memory", "system", "numpy", "onnxruntime", "darkroom"} <= described.keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NETWORK_CSV, (2, 0.888267, 1987.505, 2513.772, 2513.772)),
        (PIPELINE_CSV, (1, 0.221881, 4929.765, 4977.778, 4977.778)),
    ],
)
def test_perf_analyzer_report(text: str, expected: tuple[float, ...]) -> None:
    found = perf_analyzer.parse_csv(text)
    assert (found.concurrency, found.throughput, found.p50, found.p95, found.p99) == pytest.approx(expected)


def test_perf_analyzer_report_without_numbers() -> None:
    with pytest.raises(BenchmarkError, match="empty"):
        perf_analyzer.parse_csv(NETWORK_CSV.splitlines()[0])


def test_perf_analyzer_request() -> None:
    (request,) = json.loads(perf_analyzer.request_data(b"picture", "x4plus"))["data"]
    assert base64.b64decode(request["image"]["b64"]) == b"picture"
    assert (request["image"]["shape"], request["model"]) == ([7], ["x4plus"])


def test_rows_per_execution() -> None:
    before = Counts(rows=10, executions=8)
    assert Counts(rows=16, executions=11).since(before).rows_per_execution == 2
    assert before.since(before).rows_per_execution is None


def test_help_names_every_benchmark() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    assert all(f"  {name}  " in text for name in BENCHMARKS)
    assert all(option in text for option in ("--quick", "--only", "--output"))


def test_estimates_are_judged_by_the_factor_to_either_side() -> None:
    assert estimates.within([1.0, 1.5, 1 / 1.5, 1.51, 0.66]) == pytest.approx(3 / 5)
    guess = estimates.Guess(case="x", said=3.0, took=2.0, said_later=1.0, took_later=0.05)
    assert (guess.ratio, guess.later_ratio) == (1.5, None)
