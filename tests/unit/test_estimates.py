"""How long tasks take: the model on made-up machines whose speeds are known."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest

from proxy.load import Load, Used, shares
from proxy.tasks.estimates import Forecast, QueuedJob, Speed, forecast, learnt_gain, speed_from, speed_of
from tests.unit.clock import Clock


def test_shares_of_equal_jobs_are_equal() -> None:
    assert shares([QueuedJob(group="a", turn=1, left=1)] * 4, 0.0) == pytest.approx([0.25] * 4)


def test_shares_are_larger_for_long_steps() -> None:
    jobs = [
        QueuedJob(group="a", turn=3, left=1),
        QueuedJob(group="a", turn=1, left=1),
        QueuedJob(group="b", turn=9, left=1),
    ]
    assert shares(jobs, 0.0) == pytest.approx([3 / 8, 1 / 8, 1 / 2])


def test_shares_take_an_unknown_step_as_the_usual_one() -> None:
    jobs = [QueuedJob(group="a", turn=2, left=1), QueuedJob(group="a", turn=4, left=1), QueuedJob(group="a", left=1)]
    assert shares(jobs, 0.0) == pytest.approx([2 / 9, 4 / 9, 3 / 9])
    assert shares([QueuedJob(left=1)] * 2, 0.0) == pytest.approx([0.5, 0.5])


def test_shares_are_never_more_than_alone() -> None:
    assert shares([QueuedJob(group="a", turn=1, left=1)] * 2, 0.9) == pytest.approx([2**0.9 / 2] * 2)
    assert shares([QueuedJob(group="a", turn=1, left=1)] * 2, 0.0, machines=4) == [1.0, 1.0]


@dataclass
class Machine:
    """Plays jobs in small steps of time: slow, and plain enough to be right."""

    slots: int
    gain: float
    step: float = 0.001
    ends: dict[str, float] = field(default_factory=dict)

    def play(self, running: list[QueuedJob], waiting: list[QueuedJob]) -> dict[str, float]:
        left = {job.id: job.left for job in [*running, *waiting]}
        active, queue, now = list(running), list(waiting), 0.0
        while active or queue:
            while queue and len(active) < self.slots:
                active.append(queue.pop(0))
            for job, share in zip(active, shares(active, self.gain), strict=True):
                left[job.id] -= share * self.step
            now += self.step
            for job in [job for job in active if left[job.id] <= 0]:
                active.remove(job)
                self.ends[job.id] = now
        return self.ends


@pytest.mark.parametrize("gain", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_the_forecast_is_what_brute_force_finds(seed: int, gain: float) -> None:
    draw = random.Random(seed)

    def jobs(count: int, name: str) -> list[QueuedJob]:
        return [
            QueuedJob(id=f"{name}{k}", group=draw.choice("ab"), turn=draw.uniform(0.1, 1), left=draw.uniform(0.2, 2))
            for k in range(count)
        ]

    running, waiting = jobs(3, "running"), jobs(8, "waiting")
    found = forecast(running, waiting, slots=4, gain=gain)
    assert found.ends == pytest.approx(Machine(slots=4, gain=gain).play(running, waiting), abs=0.02)
    assert found.moments == sorted(found.ends.values())


def test_the_forecast_of_nothing() -> None:
    assert forecast([], [], slots=4) == Forecast(ends={}, moments=[])
    assert forecast([QueuedJob(id="a", left=0)], [QueuedJob(id="b", left=2)], slots=1).ends == {"a": 0, "b": 2}


def test_forecast_with_more_running_than_slots() -> None:
    """A proxy with more slots was stopped, and its tasks are taken over."""
    assert forecast([QueuedJob(id=name, left=1) for name in "abc"], [QueuedJob(id="d", left=1)], slots=1).ends["d"] == 4


def test_speed_is_recovered_under_concurrency() -> None:
    """Jobs of 1 to 8 s, all at once: each has had its own time alone, whatever it lasted."""
    clock = Clock()
    load = Load(clock)
    demands = {f"job{k}": float(k) for k in range(1, 9)}
    entered = {name: load.job() for name in demands}
    jobs = {name: context.__enter__() for name, context in entered.items()}
    for name, job in jobs.items():
        load.describe(job, id=name, group="g", turn=0.1)
    ends = forecast(
        [QueuedJob(id=name, group="g", turn=0.1, left=left) for name, left in demands.items()], [], slots=8
    ).ends
    for name, end in sorted(ends.items(), key=lambda item: item[1]):
        clock.now = 100 + end
        assert load.used(jobs[name]).seconds == pytest.approx(demands[name])
        entered[name].__exit__(None, None, None)
    assert ends["job8"] == pytest.approx(36)


def test_load_counts_how_many_jobs_ran_at_the_same_time() -> None:
    clock = Clock()
    load = Load(clock)
    with load.job() as one:
        clock.now += 1
        with load.job():
            clock.now += 1
            assert load.used(one).company == pytest.approx(math.log(2) / 2)


def known(*observations: tuple[float, float, float], speed: Speed | None = None) -> Speed:
    speed = speed or Speed()
    for pictures, units, seconds in observations:
        speed = speed.observed(pictures, units, seconds)
    return speed


def test_speed_separates_the_cost_of_an_image_and_of_a_unit() -> None:
    tasks = [(1, 4), (1, 50), (4, 80), (1, 20), (2, 40), (1, 8)] * 4
    speed = known(*((p, u, 0.08 * p + 0.011 * u) for p, u in tasks))
    for pictures, units in ((1, 4), (1, 100), (4, 16)):
        assert speed.demand(pictures, units) == pytest.approx(0.08 * pictures + 0.011 * units, rel=0.1)


def test_speed_from_one_length_scales_with_the_units() -> None:
    speed = known(*[(1, 40, 0.52)] * 5)
    assert speed.demand(1, 40) == pytest.approx(0.52, rel=0.01)
    assert 0.15 < speed.demand(1, 8) < 0.25
    assert 1.1 < speed.demand(1, 100) < 1.3


def test_speed_has_no_negative_costs() -> None:
    speed = known((1, 10, 1.0), (1, 20, 4.0), (1, 10, 1.0), (1, 20, 4.0))
    assert min(speed.costs) >= 0
    speed = known((1, 10, 4.0), (1, 20, 1.0), (1, 10, 4.0), (1, 20, 1.0))
    assert min(speed.costs) >= 0
    assert speed.demand(1, 15) > 0
    assert known((1, 0, 2.0)).demand(1, 0) == pytest.approx(2.0)


def test_speed_forgets_a_slow_first_run() -> None:
    assert known((1, 40, 9.0), *[(1, 40, 0.5)] * 2).demand(1, 40) == pytest.approx(0.5, rel=0.35)
    assert known((1, 40, 2.0), *[(1, 40, 0.5)] * 2).demand(1, 40) == pytest.approx(0.5, rel=0.35)


def test_speed_ignores_an_outlier_and_follows_a_slower_machine() -> None:
    steady = known(*[(1, 40, 0.5)] * 10)
    assert known((1, 40, 5.0), speed=steady).demand(1, 40) == pytest.approx(0.5, rel=0.15)
    assert known(*[(1, 40, 1.5)] * 12, speed=steady).demand(1, 40) == pytest.approx(1.5, rel=0.35)


def test_speed_of_a_new_kind_is_that_of_the_nearest_by_pixels() -> None:
    speeds = {
        ("generate", "64x64"): known(*[(1, 40, 0.2)] * 3),
        ("generate", "512x512"): known(*[(1, 40, 10.0)] * 3),
        ("generate", "512x512 controlled"): known(*[(1, 40, 15.0)] * 3),
        ("upscale", "x4"): known(*[(1, 1, 99.0)] * 3),
    }

    def demand(operation: str, kind: str) -> float | None:
        speed = speed_of(speeds, operation, kind)
        return speed.demand(1, 40) if speed else None

    assert demand("generate", "64x64") == pytest.approx(0.2)
    assert demand("generate", "64x128") == pytest.approx(0.4)
    assert demand("generate", "512x1024") == pytest.approx(20)
    assert demand("generate", "256x256 controlled") == pytest.approx(15 / 4)
    assert demand("generate", "defaultxdefault") in (pytest.approx(0.2), pytest.approx(10))
    assert speed_of(speeds, "hidream", "512x512") is None
    assert speed_of({}, "generate", "64x64") is None


def test_speeds_are_stored() -> None:
    speed = known((1, 40, 0.5), (2, 10, 0.3))
    assert speed_from(speed.as_json()) == speed


def run_together(gain: float, true_gain: float, demand: float, count: int) -> Used:
    """What the load measures of one of `count` equal jobs that takes `demand` alone."""
    lasts = demand * count / count**true_gain
    return Used(seconds=lasts * count**gain / count, company=math.log(count))


@pytest.mark.parametrize("true_gain", [0.0, 0.15, 0.5])
def test_the_gain_of_running_together_is_learnt(true_gain: float) -> None:
    """Jobs alone and jobs together, in turns: the demand is what they take alone, and the gain the machine's."""
    gain, speed, draw = 0.0, known(*[(1, 40, 2.0)] * 4), random.Random(1)
    for _ in range(120):
        used = run_together(gain, true_gain, 2.0, draw.choice([1, 2, 4, 8]))
        gain = learnt_gain(gain, speed, 1, 40, used)
        speed = speed.observed(1, 40, used.seconds, company=used.company)
    assert gain == pytest.approx(true_gain, abs=0.08)
    assert speed.demand(1, 40) == pytest.approx(2.0, rel=0.15)


def test_learnt_speed_is_not_inflated_by_a_burst() -> None:
    """Eight at once last eight times as long each; one alone is still expected to take its own time."""
    gain, speed = 0.0, known(*[(1, 40, 0.5)] * 4)
    for _ in range(40):
        used = run_together(gain, 0.0, 0.5, 8)
        gain = learnt_gain(gain, speed, 1, 40, used)
        speed = speed.observed(1, 40, used.seconds, company=used.company)
    assert speed.demand(1, 40) == pytest.approx(0.5, rel=0.05)
    alone = forecast([], [QueuedJob(id="a", left=speed.demand(1, 40))], slots=8, gain=gain)
    assert alone.ends["a"] == pytest.approx(0.5, rel=0.05)
