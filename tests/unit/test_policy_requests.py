"""Requests that are judged where they are taken: callers, surfaces, notes for the audit trail, and no policy at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import ModerationBlocked
from darkroom.settings import ROOT, Settings
from proxy.audit.notes import NOTES, Notes
from proxy.callers import CALLER, Caller
from proxy.error_shapes import SHAPE, native, openai
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.models import default_model
from proxy.operations.taking import Taken, take
from proxy.services import Services
from tests.monitors import Ready
from tests.service import link_models

POLICY = """\
version: "5"
words: {guns: [gun]}
rules:
  - {id: ann, when: key_id == "k1" && key_name == "Ann" && role == "user", allow: true}
  - {id: openai, when: surface == "openai", refuse: Not here.}
  - {id: calm, words: guns, negative_prompt: weapon, limit: {steps: 2}}
  - {id: many, when: num_images > 2 && steps <= 2, refuse: Too many.}
"""


@pytest.fixture
def notes() -> Iterator[Notes]:
    found = Notes()
    token = NOTES.set(found)
    yield found
    NOTES.reset(token)


def taken(folder: Path, policy: str | None, models: Path = ROOT / "model_repository", **fields: Any) -> Taken:
    """Take a request for an image, in front of no Triton."""

    async def scenario() -> Taken:
        gateway = Gateway("127.0.0.1:1")
        monitor = Ready(gateway, {}, metrics_url="", interval=1, timeout=1)
        path = None if policy is None else folder / "policy.yaml"
        if path is not None and policy is not None:
            path.write_text(policy, "utf-8")
        settings = Settings(_env_file=None, model_repository=models, policy_file=path)
        services = Services(settings=settings, gateway=gateway, monitor=monitor, gate=Gate(capacity=1, queue_size=1))
        try:
            return await take(services, default_model(services, "generate"), dict(fields))
        finally:
            await gateway.close()

    return asyncio.run(scenario())


def test_nothing_happens_without_a_policy(tmp_path: Path, notes: Notes) -> None:
    fields = {"prompt": "a gun", "steps": 9, "num_images": 4}
    plain = taken(tmp_path, None, **fields)
    assert (plain.warnings, notes.rules, notes.policy_version) == ([], [], None)
    assert plain.values["steps"] == 9
    assert taken(tmp_path, "version: '1'\nrules: []\n", **fields).values == plain.values


def test_changes_are_noted(tmp_path: Path, notes: Notes) -> None:
    found = taken(tmp_path, POLICY, prompt="a gun", steps=9, num_images=2)
    assert (found.values["steps"], found.values["negative_prompt"]) == (2, "weapon")
    assert (getattr(found.request, "steps", None), getattr(found.request, "negative_prompt", None)) == (2, "weapon")
    assert [one["field"] for one in found.warnings] == ["negative_prompt", "steps"]
    assert (notes.rules, notes.policy_version) == (["calm"], "5")


def test_refusals_are_noted_with_the_rules_before_them(tmp_path: Path, notes: Notes) -> None:
    with pytest.raises(ModerationBlocked, match="Too many") as caught:
        taken(tmp_path, POLICY, prompt="a gun", steps=9, num_images=3)
    assert caught.value.rule == "many"
    assert notes.rules == ["calm", "many"]


def test_caller_and_surface_are_known(tmp_path: Path) -> None:
    shape, caller = SHAPE.set(openai), CALLER.set(Caller(key="k1", name="Ann", role="user"))
    try:
        assert taken(tmp_path, POLICY, prompt="a gun", steps=9).values["steps"] == 9, "Ann is allowed everything"
        CALLER.set(Caller(key="k1", name="Ann", role="admin"))
        with pytest.raises(ModerationBlocked, match="Not here"):
            taken(tmp_path, POLICY, prompt="a cat")
        SHAPE.set(native)
        assert taken(tmp_path, POLICY, prompt="a cat").warnings == []
    finally:
        SHAPE.reset(shape)
        CALLER.reset(caller)


CHECKED = "version: '6'\nrules: [{id: look, check_images: blank}]\n"


def test_model_without_a_safety_checker_is_refused_where_images_are_checked(tmp_path: Path, notes: Notes) -> None:
    with pytest.raises(ModerationBlocked, match="has no safety checker") as caught:
        taken(tmp_path, CHECKED, prompt="a cat")
    assert (caught.value.rule, notes.rules) == ("look", ["look"])


def test_check_becomes_a_part_of_the_request(tmp_path: Path) -> None:
    models = link_models(tmp_path / "models", "sd15", "sd15_unet")
    (models / "sd15_safety_checker" / "1").mkdir(parents=True)
    found = taken(tmp_path, CHECKED, models, prompt="a cat", check_images="none")
    assert (found.values["check_images"], found.values["check_rule"]) == ("blank", "look")
    assert getattr(found.request, "check_images", None) == "blank"
    assert "check_images" not in taken(tmp_path, None, models, prompt="a cat", check_images="blank").values
