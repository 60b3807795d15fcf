"""Models that are loaded again alone: the links that Triton sees, and when they are taken away and put back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.reloads import LastResort, ReloadFailed, Reloads
from supervisor.served import Served

MODELS = ("toy", "toy_unet", "other")


@pytest.fixture
def served(tmp_path: Path) -> Served:
    for model in MODELS:
        (tmp_path / "repository" / model / "1").mkdir(parents=True)
    (tmp_path / "repository" / "README.md").touch()
    made = Served(tmp_path / "served", tmp_path / "repository", lambda model: model != "other")
    made.clear()
    made.fill()
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"now": 100.0}
    monkeypatch.setattr("supervisor.reloads.time", SimpleNamespace(monotonic=lambda: now["now"]))
    return now


def links(served: Served) -> list[str]:
    return sorted(path.name for path in served.folder.iterdir())


def health(ready_for: float | None = None, **loaded: bool) -> dict[str, Any]:
    return {"models": loaded, "families": {"toy": {"models": ["toy", "toy_unet"], "ready_for": ready_for}}}


def test_served_are_the_models_that_are_chosen(served: Served) -> None:
    assert links(served) == ["toy", "toy_unet"]
    assert (served.folder / "toy" / "1").is_dir()
    served.clear()
    assert not links(served)
    assert (served.folder.parent / "repository" / "toy" / "1").is_dir()


def test_served_model_has_its_code_compiled_before_triton_looks(tmp_path: Path) -> None:
    """A stub that compiles it changes the model's folder, so that Triton loads the model a second time."""
    version = tmp_path / "repository" / "toy" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text("X = 1\n")
    served = Served(tmp_path / "served", tmp_path / "repository", lambda model: True)
    served.clear()
    served.fill()
    (compiled,) = (version / "__pycache__").iterdir()
    before = compiled.stat().st_mtime_ns
    served.clear()
    served.fill()
    assert compiled.stat().st_mtime_ns == before, "another service may serve it"


def test_reload_links_all_models_again_once_all_are_unloaded(served: Served, clock: dict[str, float]) -> None:
    reloads = Reloads(served, limit=60)
    reloads.begin({"toy", "toy_unet"}, health(toy=True, toy_unet=True))
    assert links(served) == []
    assert reloads.step(health(9, toy=True, toy_unet=False), {}) is None
    assert links(served) == []
    clock["now"] += 1
    assert reloads.step(health(None, toy=False, toy_unet=False), {}) is None
    assert links(served) == ["toy", "toy_unet"]
    clock["now"] += 4
    assert reloads.step(health(9, toy=True, toy_unet=True), {}) is None, "it was ready before"
    assert reloads.step(health(1, toy=True, toy_unet=True), {}) == 5
    assert not reloads.models


def test_reload_of_a_model_that_was_not_loaded_waits_for_triton_to_look(
    served: Served, clock: dict[str, float]
) -> None:
    reloads = Reloads(served, limit=60)
    reloads.begin({"toy"}, health(toy=False))
    reloads.step(health(toy=False), {})
    assert links(served) == ["toy_unet"]
    clock["now"] += 4
    reloads.step(health(toy=False), {})
    assert links(served) == ["toy", "toy_unet"]


def test_reload_that_takes_too_long_fails(served: Served, clock: dict[str, float]) -> None:
    reloads = Reloads(served, limit=60)
    reloads.begin({"toy"}, health(toy=True))
    clock["now"] += 61
    with pytest.raises(ReloadFailed, match="toy did not come back within 60 s"):
        reloads.step(health(toy=True), {})


def test_reload_fails_with_the_reason_that_triton_gives(served: Served, clock: dict[str, float]) -> None:
    reloads = Reloads(served, limit=60)
    reloads.begin({"toy"}, health(toy=True))
    with pytest.raises(ReloadFailed, match="toy does not load: no memory"):
        reloads.step(health(toy=False), {"toy": "no memory"})


def test_restart_of_the_server_is_worth_it_once(clock: dict[str, float]) -> None:
    last = LastResort()
    assert not last.did_not_help({"toy", "toy_unet"})
    last.restart({"toy", "toy_unet"})
    assert last.did_not_help({"toy"})
    assert not last.did_not_help({"toy", "other"})
    last.works({"toy"})
    assert not last.did_not_help({"toy"})


def test_rests_of_a_model_that_stays_broken_get_longer(clock: dict[str, float]) -> None:
    last = LastResort()
    assert not last.is_resting("toy")
    assert [last.rest({"toy"}) for _ in range(6)] == [30, 60, 120, 300, 600, 600]
    assert last.is_resting("toy")
    assert not last.is_resting("other")
    clock["now"] += 600
    assert not last.is_resting("toy")
    last.rest({"toy"})
    last.works({"toy"})
    assert not last.is_resting("toy")
    assert last.rest({"toy"}) == 30


def test_models_that_are_given_up_stay_in_the_repository_of_the_server(served: Served, clock: dict[str, float]) -> None:
    reloads = Reloads(served, limit=60)
    reloads.begin({"toy"}, health(toy=True))
    assert links(served) == ["toy_unet"]
    reloads.give_up()
    assert links(served) == ["toy", "toy_unet"]
    assert not reloads.models
