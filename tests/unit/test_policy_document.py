"""Files of policies: what they may have, and the line and the field of what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.policy.document import PolicyError, files_of, read_policy
from proxy.policy.rules import Facts, Policy

WHOLE = """\
version: "7"
words:
  short: [gun, rifle*]
  long:
    words: [bomb]
    except: [bath bomb]
    files: [more.txt]
rules:
  - id: first
    words: [short, long]
    in: [prompt, negative_prompt]
    when: role != "admin"
    refuse: No weapons.
  - id: second
    when: |
      steps > 50 &&
      operation == "generate"
    negative_prompt: blurry
    limit: {steps: 50, num_images: 2, pixels: 65536, scale: 2}
"""


def read(folder: Path, text: str) -> Policy:
    path = folder / "policy.yaml"
    path.write_text(text, "utf-8")
    return read_policy(path)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        read(folder, text)
    return [str(one) for one in caught.value.problems]


def test_policy_with_everything(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("\ufeff# a comment\ngrenade  # another\n\n手榴弹\n", "utf-8")
    found = read(tmp_path, WHOLE)
    assert (found.version, found.lists, [rule.id for rule in found.rules]) == (
        "7",
        {"short": 2, "long": 3},
        ["first", "second"],
    )
    assert found.rules[1].limits == {"steps": 50, "num_images": 2, "pixels": 65536, "scale": 2}
    assert found.judge(Facts(operation="generate", prompts=("a 手榴彈",))).refused == "No weapons."
    assert found.judge(Facts(operation="generate", prompts=("a bath bomb",))).refused is None
    assert files_of(tmp_path / "policy.yaml") == [tmp_path / "policy.yaml", tmp_path / "more.txt"]
    before = found.digest
    (tmp_path / "more.txt").write_text("grenade")
    assert read(tmp_path, WHOLE).digest != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("version: ", "vresion: "), "line 1: version: is missing"),
        (('"7"', "7"), "line 1: version: input should be a valid string; got 7"),
        (("[gun, rifle*]", "[gun, '!']"), "line 3: words.short[1]: must have letters or digits; got '!'"),
        (("[gun, rifle*]", "[gun, r*e]"), "line 3: words.short[1]: must have * at the beginning or the end only"),
        (("[gun, rifle*]", "[gun, no]"), "line 3: words.short[1]: input should be a valid string; got False"),
        (("[gun, rifle*]", "gun"), "line 3: words.short: must have fields with names; got 'gun'"),
        (("[bomb]", "[5]"), "line 5: words.long.words[0]: input should be a valid string; got 5"),
        (("except: [bath bomb]", "except: ['?']"), "line 6: words.long.except[0]: must have letters or digits"),
        (("except:", "excpet:"), "line 6: words.long.excpet: is not known here"),
        (("more.txt", "none.txt"), "line 7: words.long.files[0]: none.txt: No such file"),
        (("id: first", "id: a b"), "line 9: rules[0].id: "),
        (("id: first", "id: second"), "line 14: rules[1].id: second is there twice"),
        (("[short, long]", "[short, tall]"), "line 10: rules[0].words: must be a list of words, of short, long"),
        (("in: [prompt, negative_prompt]", "in: caption"), "line 11: rules[0].in[0]: "),
        (('role != "admin"', "rôle"), "line 12: rules[0].when: "),
        (('role != "admin"', "role"), "line 12: rules[0].when: must be true or false, and is of the type STRING"),
        (('role != "admin"', "rank > 1"), "line 12: rules[0].when: undeclared reference to 'rank' at character 1"),
        (('role != "admin"', "role > 1"), "line 12: rules[0].when: found no matching overload"),
        (('role != "admin"', 'size(words["tall"]) > 1'), "line 12: rules[0].when: Key not found in map"),
        (('role != "admin"', 'prompt.matches("(")'), "line 12: rules[0].when: invalid regular expression"),
        (('operation == "generate"', "oparation == 1"), "line 17: rules[1].when: undeclared reference to 'oparation'"),
        (("refuse: No weapons.", "refuse: ''"), "line 13: rules[0].refuse: "),
        (("    refuse: No weapons.\n", ""), "line 9: rules[0]: must have one action: allow, refuse, or"),
        (("refuse: No", "allow: true\n    refuse: No"), "line 9: rules[0]: must have one action"),
        (("refuse: No weapons.", "allow: false"), "line 13: rules[0].allow: "),
        (("steps: 50, n", "steps: 0, n"), "line 19: rules[1].limit.steps: input should be greater than or equal to 1"),
        (("steps: 50, n", "stpes: 50, n"), "line 19: rules[1].limit.stpes: is not known here"),
        (("{steps: 50, num_images: 2, pixels: 65536, scale: 2}", "{}"), "line 19: rules[1].limit: must name some of"),
        (("  - id: first", "  - id: first\n    id: other"), "line 10: id is there twice"),
        (("[gun,", "[gun"), ""),
        (("[gun, rifle*]", "[gun, rifle*"), "line"),
        (("[gun, rifle*]", "&a [gun]\n  again: *a"), "aliases are not read here"),
        (("refuse: No weapons.", "refuse: !!python/object:os.system x"), "line 13"),
        (("rules:", "5: x\nrules:"), "line 8: the name of a field must be text; got 5"),
    ],
)
def test_problem_is_named_with_line_and_field(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    (tmp_path / "more.txt").write_text("grenade")
    assert change[0] in WHOLE
    text = WHOLE.replace(*change, 1)
    if not said:  # "gun rifle*" is one word with a space
        read(tmp_path, text)
        return
    (found,) = problems(tmp_path, text)[:1]
    assert found.startswith("policy.yaml, line ")
    assert said in found


@pytest.mark.parametrize("text", ["", "[]", "words", "\x00", "a: b: c", "[" * 1000])
def test_file_that_is_no_policy(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)[0].startswith("policy.yaml, line 1: ")


def test_all_problems_are_named(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("grenade\n!!\n")
    found = problems(tmp_path, WHOLE.replace("gun", "'*'").replace("role !=", "rank !="))
    assert [one.partition(": ")[0] for one in found] == [
        "policy.yaml, line 3",
        "more.txt, line 2",
        "policy.yaml, line 12",
    ]


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"none\.yaml, line 1: No such file"):
        read_policy(tmp_path / "none.yaml")
    path = tmp_path / "policy.yaml"
    path.write_bytes(b"version: x\nwords: \xff\n")
    with pytest.raises(PolicyError, match=r"policy\.yaml, line 2: is not UTF-8"):
        read_policy(path)
    assert files_of(path) == [path]
