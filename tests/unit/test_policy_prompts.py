"""What policies/example.yaml decides about prompts of tests/data/policy_prompts.yaml."""

from __future__ import annotations

from functools import cache

import pytest
import yaml

from darkroom.settings import ROOT
from proxy.policy.document import read_policy
from proxy.policy.rules import Facts, Policy

EXPECTED: dict[str, list[str]] = yaml.safe_load((ROOT / "tests" / "data" / "policy_prompts.yaml").read_text("utf-8"))
CASES = [(prompt, rule) for rule, prompts in EXPECTED.items() for prompt in prompts]


@cache
def example() -> Policy:
    return read_policy(ROOT / "policies" / "example.yaml")


def test_there_are_enough_prompts() -> None:
    assert len(set(CASES)) == len(CASES) >= 200
    assert len(EXPECTED["none"]) >= 60
    assert {*EXPECTED} - {"none"} < {rule.id for rule in example().rules}


@pytest.mark.parametrize(("prompt", "rule"), CASES)
def test_decision_about_a_prompt(prompt: str, rule: str) -> None:
    decision = example().judge(Facts(operation="generate", prompts=(prompt,), steps=20))
    assert (decision.rules or ("none",))[-1] == rule, decision.words
    assert (decision.refused is None) == (rule in ("none", "no-weapons"))
    # As the prompt of a training it is refused as well.
    assert example().judge(Facts(operation="train", prompts=("a cat", prompt), steps=20)).refused == decision.refused
