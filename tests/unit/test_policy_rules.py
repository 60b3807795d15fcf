"""Rules in their order, their conditions and their changes; the policy of a service, which is read again."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from darkroom.settings import ROOT, Settings
from proxy.policy.commands import policy as command
from proxy.policy.conditions import VARIABLES, Condition, ConditionError, Values
from proxy.policy.document import PolicyError
from proxy.policy.reload import PolicyFile
from proxy.policy.rules import Check, Facts, Policy, Rule, fitted
from proxy.policy.words import WordList, Words
from supervisor.preflight import policy_problems

GUNS = Words({"guns": WordList(words=["gun"]), "cats": WordList(words=["cat"])})


def made(*rules: Rule) -> Policy:
    return Policy(version="1", digest="", words=GUNS, lists={}, rules=rules)


def facts(prompt: str = "a gun", **known: Any) -> Facts:
    return Facts(**{"operation": "generate", "prompts": (prompt,), "width": 512, "height": 512, "steps": 50} | known)


def test_first_rule_that_allows_or_refuses_ends_it() -> None:
    admins = Rule(id="admins", condition=Condition('role == "admin"'), allow=True)
    guns = Rule(id="guns", words=("guns",), refuse="No.")
    late = Rule(id="late", refuse="Nothing.")
    assert made(admins, guns).judge(facts(role="admin")).rules == ("admins",)
    refused = made(admins, guns, late).judge(facts())
    assert (refused.rules, refused.refused, refused.words) == (("guns",), "No.", {"guns": ["gun"]})
    assert made(guns).judge(facts("a cat")).rules == ()


def test_words_and_condition_have_to_hold_both() -> None:
    rule = Rule(id="both", words=("guns",), condition=Condition('"cats" in found'), refuse="No.")
    assert made(rule).judge(facts("a gun")).refused is None
    assert made(rule).judge(facts("a cat")).refused is None
    assert made(rule).judge(facts("a cat with a gun")).refused == "No."


def test_negative_prompts_are_looked_at_where_a_rule_says_so() -> None:
    usual, both = Rule(id="r", words=("guns",), refuse="No."), ("prompt", "negative_prompt")
    one = facts("a cat", negative_prompts=("gun",))
    assert made(usual).judge(one).refused is None
    assert made(Rule(id="r", words=("guns",), texts=both, refuse="No.")).judge(one).refused == "No."  # type: ignore[arg-type]


def test_changes_are_seen_by_later_rules() -> None:
    small = Rule(id="small", limits={"steps": 20, "num_images": 1})
    smaller = Rule(id="smaller", condition=Condition("steps > 20"), limits={"steps": 10})
    calm = Rule(id="calm", negative_prompt="blood")
    found = made(small, smaller, calm).judge(facts(num_images=4))
    assert found.rules == ("small", "calm")
    assert [(cut.name, cut.before, cut.after) for cut in found.cuts] == [("steps", 50, 20), ("num_images", 4, 1)]
    assert [one.text for one in found.additions] == ["blood"]
    assert made(small).judge(facts(steps=20, num_images=1)).rules == (), "a limit that is kept does nothing"
    assert made(calm).judge(facts(operation="train")).rules == (), "a training has no negative prompt"


ONE_OF_THIRTY = "|".join("un" if index == 3 else "oat" for index in range(30))
GUN_AT_THE_FOURTH_OF_6_STEPS = f"a g[[oat:[{ONE_OF_THIRTY}]:0.5]:oat:0.7]"


@pytest.mark.parametrize("how", ["limit", "strength", "both"])
def test_words_of_the_steps_that_are_done_are_found(how: str) -> None:
    """Fewer steps may read words that the steps of the request do not: a rule may lower them, and an image that is
    changed a little has fewer."""
    rules = [Rule(id="guns", words=("guns",), refuse="No.")]
    rules += [Rule(id="calm", limits={"steps": 6 if how == "limit" else 12})] if how != "strength" else []
    known = {"limit": {"steps": 20}, "strength": {"steps": 20, "strength": 0.3}, "both": {"steps": 20, "strength": 0.5}}
    prompt = GUN_AT_THE_FOURTH_OF_6_STEPS
    assert made(rules[0]).judge(facts(prompt, steps=20)).refused is None
    assert made(*rules).judge(facts(prompt, **known[how])).refused == "No."


@pytest.mark.parametrize(
    ("operation", "cut"),
    [("generate", ["pixels", "steps"]), ("edit", ["pixels", "steps"]), ("upscale", ["scale"]), ("train", ["steps"])],
)
def test_limits_are_those_of_the_operation(operation: str, cut: list[str]) -> None:
    rule = Rule(id="all", limits={"pixels": 4096, "steps": 10, "scale": 2, "num_images": 9})
    found = made(rule).judge(facts(operation=operation, scale=4.0))
    assert [one.name for one in found.cuts] == cut


def test_a_condition_that_cannot_be_evaluated_refuses_and_does_not_allow(caplog: pytest.LogCaptureFixture) -> None:
    broken = Condition("num_images / (steps - 50) > 1")
    assert made(Rule(id="r", condition=broken, refuse="No.")).judge(facts()).refused == "No."
    assert made(Rule(id="a", condition=broken, allow=True)).judge(facts()).rules == ()
    assert "divide by zero" in caplog.text


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('prompt.contains("a nude")', True),
        ('prompt.matches("nu.e")', True),
        ('negative_prompt == "blurry"', True),
        ('operation in ["generate", "edit"] && model.startsWith("sd15")', True),
        ('surface == "openai" || width * height > 100000', True),
        ("scale > 1.0 || num_images > 3", False),
        ('key_id == "" && key_name == "" && role == "user"', True),
        ('words["guns"].exists(word, word == "gun")', True),
        ('"guns" in found && size(words["cats"]) == 0', True),
        ("size(found) == 0", False),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    known = {"prompts": ("A (ｎｕ:1.2)de gun",), "negative_prompts": ("Blurry!",), "model": "sd15.photos"}
    found = made(Rule(id="r", condition=Condition(text, GUNS.lists), refuse="No.")).judge(facts(**known))
    assert (found.refused is not None) is holds


def test_every_variable_can_be_used() -> None:
    for name, value in VARIABLES.items():
        assert Condition(f"{name} == {name}").holds(Values({name: value}), otherwise=False)
    with pytest.raises(ConditionError, match="undeclared reference to 'nmae' at character 3"):
        Condition("!(nmae == 1)")


@pytest.mark.parametrize(
    ("size", "pixels", "multiple", "found"),
    [
        ((1024, 1024), 512 * 512, 8, (512, 512)),
        ((1024, 512), 131072, 8, (512, 256)),
        ((1000, 10), 4096, 8, (640, 8)),
        ((64, 64), 10**6, 8, (64, 64)),
        ((770, 514), 200_000, 16, (544, 352)),
    ],
)
def test_sizes_keep_their_proportions(
    size: tuple[int, int], pixels: int, multiple: int, found: tuple[int, int]
) -> None:
    assert fitted(*size, pixels, multiple) == found


GOOD = 'version: "{}"\nrules:\n  - id: all\n    refuse: No {}.\n'


def write(path: Path, text: str, again: int = 0) -> None:
    """Write a file whose time of change differs from that of the last one, however quick the test is."""
    path.write_text(text)
    os.utime(path, ns=(again * 10**9, again * 10**9))


def test_file_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "policy.yaml"
    write(path, GOOD.format(1, "a"))
    used = PolicyFile(path)

    async def version() -> str:
        return (await used.current()).version

    assert asyncio.run(version()) == "1"
    write(path, GOOD.format(2, "b"), 1)
    assert asyncio.run(version()) == "2"
    assert "version 2, before 1" in caplog.text
    write(path, "version: 3\nrules: 5\n", 2)
    assert asyncio.run(version()) == "2"
    assert used.error is not None
    assert "the policy is broken, and version 2 stays: policy.yaml, line 1: version" in caplog.text
    said = len(caplog.records)
    assert asyncio.run(version()) == "2"
    assert len(caplog.records) == said, "it is said once"
    path.unlink()
    assert asyncio.run(version()) == "2"
    write(path, GOOD.format(2, "c"), 4)
    assert asyncio.run(version()) == "2"
    assert used.error is None
    assert "its version has not" in caplog.text
    assert (asyncio.run(used.current())).rules[0].refuse == "No c."


def test_word_files_are_read_again(tmp_path: Path) -> None:
    path, words = tmp_path / "policy.yaml", tmp_path / "words.txt"
    write(words, "gun\n")
    write(path, 'version: "1"\nwords:\n  a: {files: [words.txt]}\nrules:\n  - {id: r, words: a, refuse: No.}\n')
    used = PolicyFile(path)

    async def refused(prompt: str) -> bool:
        return (await used.current()).judge(facts(prompt)).refused is not None

    assert asyncio.run(refused("a gun"))
    write(words, "sword\n", 1)
    assert not asyncio.run(refused("a gun"))
    assert asyncio.run(refused("a sword"))


def test_file_that_is_broken_at_the_start_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    write(path, "version: '1'\nrules:\n  - {id: r, limit: {steps: many}}\n")
    with pytest.raises(PolicyError, match=r"policy\.yaml, line 3: rules\[0\]\.limit\.steps: .*'many'"):
        PolicyFile(path).load()
    (said,) = policy_problems(Settings(_env_file=None, policy_file=path))
    assert said.startswith("POLICY_FILE cannot be used: policy.yaml, line 3: rules[0].limit.steps: ")
    (missing,) = policy_problems(Settings(_env_file=None, policy_file=tmp_path / "none.yaml"))
    assert missing == "POLICY_FILE cannot be used: none.yaml, line 1: No such file or directory"
    assert policy_problems(Settings(_env_file=None)) == []
    assert policy_problems(Settings(_env_file=None, policy_file=ROOT / "policies" / "example.yaml")) == []


def test_command_check(tmp_path: Path) -> None:
    good = CliRunner().invoke(command, ["check", str(ROOT / "policies" / "example.yaml")])
    assert good.exit_code == 0
    assert "version " in good.output
    assert "rule   minors" in good.output
    path = tmp_path / "policy.yaml"
    write(path, "version: '1'\nrules:\n  - {id: a b, allow: true}\n  - {id: c}\n")
    bad = CliRunner().invoke(command, ["check", str(path)])
    assert bad.exit_code == 1
    assert "policy.yaml, line 3: rules[0].id" in bad.output
    assert "policy.yaml, line 4: rules[1]: must have one action" in bad.output


def test_command_test() -> None:
    example = str(ROOT / "policies" / "example.yaml")

    def said(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(command, ["test", example, *arguments])
        return result.exit_code, result.output

    assert said("a cat") == (0, "allowed\n")
    code, output = said("(nu:1.2)de")
    assert code == 1
    assert output.startswith("refused by sexual: ")
    assert "words  sexual in prompt: nude" in output
    code, output = said("a rifle", "--steps", "120", "--width", "2048", "--height", "2048")
    assert code == 0
    assert "adds   to negative_prompt: weapon, gun (no-weapons)" in output
    assert "lowers steps from 120 to 100 (modest)" in output


def test_checks_of_images_go_on_and_the_strictest_counts() -> None:
    black, strict = Rule(id="black", check_images="blank"), Rule(id="strict", words=("guns",), check_images="refuse")
    late = Rule(id="late", limits={"steps": 5})
    found = made(black, strict, late).judge(facts())
    assert (found.rules, found.check and found.check.rule, found.cuts[0].after) == (
        ("black", "strict", "late"),
        "strict",
        5,
    )
    assert made(black, strict).judge(facts("a cat")).check == Check(rule="black", action="blank")
    assert made(black).judge(facts(operation="upscale")) == made().judge(facts(operation="upscale"))
    able = Rule(id="able", condition=Condition("checks_images"), check_images="refuse")
    assert made(able).judge(facts()).check is not None
    assert made(able).judge(facts(checks_images=False)).check is None
