"""The progress of a build, from the nested phases that TensorRT reports."""

from __future__ import annotations

from exporters.tensorrt.progress import Phases


def test_progress_of_nested_phases() -> None:
    phases = Phases()
    shares = []
    phases.start("build", None, 4)
    phases.step("build", 0)
    shares.append(phases.share())
    phases.start("tactics", "build", 10)
    phases.step("tactics", 4)
    shares.append(phases.share())
    phases.finish("tactics")
    phases.step("build", 1)
    shares.append(phases.share())
    phases.finish("build")
    shares.append(phases.share())
    assert shares == [0.25, 0.375, 0.5, 1.0]


def test_progress_never_falls() -> None:
    phases = Phases()
    phases.start("build", None, 2)
    phases.start("inner", "build", 2)
    phases.step("inner", 0)
    before = phases.share()
    phases.finish("inner")
    phases.step("unknown", 3)
    assert phases.share() == before == 0.25
