"""Words that change from step to step, BREAK, AND and LoRA tags: what the prompts of a request mean at each step."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.errors import InvalidInput
from darkroom.prompts.changes import count_changes, parse_changes, text_at
from darkroom.prompts.clip import MOST_CHUNKS, chunk, common_length
from darkroom.prompts.schedule import MOST_CHANGES, MOST_TEXTS, check_prompts, schedule_prompts

STEPS = 10
SIGNS = st.text(st.sampled_from("[]():|\\ab 0.5-\n猫"), max_size=60)


def texts(prompt: str, steps: int = STEPS) -> list[tuple[int, str]]:
    """The texts of a prompt, each with the number of steps after which another one follows."""
    parts, found = parse_changes(prompt), list[tuple[int, str]]()
    for index in range(steps):
        text = text_at(parts, index, steps)
        if found and found[-1][1] == text:
            found.pop()
        found.append((index + 1, text))
    return found


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [b::0.25] c", [(2, "a b c"), (10, "a  c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("([a:b:0.5]:1.3)", [(5, "(a:1.3)"), (10, "(b:1.3)")]),
        ("[a:b|c:4]", [(10, "[a:b|c:4]")]),
        ("[a:[b|c]:7]", [(7, "a"), (8, "c"), (9, "b"), (10, "c")]),
    ],
)
def test_prompt_switches(prompt: str, expected: list[tuple[int, str]]) -> None:
    """Most of them are the examples in the web UI's own description of its notation."""
    assert texts(prompt) == expected


@pytest.mark.parametrize(
    ("number", "steps"),
    [
        ("0", 0),
        ("0.0", 0),
        ("-1", 0),
        ("-0.5", 0),
        ("1", 1),
        ("1.0", 10),
        ("0.19", 1),
        (" 0.5 ", 5),
        ("+.5", 5),
        ("1.5", 10),
        ("9", 9),
        ("10", 10),
        ("11", 10),
        ("9" * 400, 10),
    ],
)
def test_prompt_switch_number(number: str, steps: int) -> None:
    parts = parse_changes(f"[a:b:{number}]")
    assert "".join(text_at(parts, index, STEPS) for index in range(STEPS)) == "a" * steps + "b" * (STEPS - steps)


@pytest.mark.parametrize(
    ("prompt", "cycle"),
    [
        ("[a|(b:1.1)]", ["a", "(b:1.1)"]),
        ("[fe|]male", ["female", "male"]),
        ("[fe|||]male", ["female", "male", "male", "male"]),
        ("x [a|b|c]", ["x a", "x b", "x c"]),
        ("[a|b] [c|d|e]", ["a c", "b d", "a e", "b c", "a d", "b e"]),
        ("[a|(b|c)]", ["a", "(b|c)"]),
        ("[a|[b|c|d]]", ["a", "c", "a", "b", "a", "d"]),
    ],
)
def test_prompt_alternation(prompt: str, cycle: list[str]) -> None:
    parts = parse_changes(prompt)
    assert [text_at(parts, index, 12) for index in range(12)] == cycle * (12 // len(cycle))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat",
        "a [cat] and (dog:1.3)",
        "[a:b]",
        "[a:b:c:0.5]",
        "[a:b:half]",
        "[a|b:0.5]",
        "a|b:0.5",
        "(a|b)",
        "(a:b:0.5)",
        "[a:b:0.5",
        "a:b:0.5]",
        "[(a:b:0.5]",
        r"\[a:b:0.5]",
        r"\[a|b\]",
        r"[a\|b]",
        "\\",
        "[]",
        "[" * 5000,
        "[|" * 5000,
    ],
)
def test_prompt_without_changes_is_the_same_text_at_all_steps(text: str) -> None:
    assert parse_changes(text) == ((text,) if text else ())


def test_prompt_brackets_nest_as_deeply_as_a_prompt_is_long() -> None:
    deep = "[a|" * 1300 + "b" + "]" * 1300
    parts = parse_changes(deep)
    assert count_changes(parts) == 1300
    assert [text_at(parts, index, STEPS) for index in range(3)] == ["a", "b", "a"]


@given(SIGNS)
@settings(database=None, deadline=None, max_examples=500)
def test_prompt_of_any_signs_is_parsed(text: str) -> None:
    parts = parse_changes(text)
    if not count_changes(parts):
        assert "".join(map(str, parts)) == text
    assert all(isinstance(text_at(parts, index, STEPS), str) for index in range(STEPS))


@given(st.text(st.characters(exclude_characters="[]"), max_size=60))
@settings(database=None, deadline=None)
def test_prompt_without_square_brackets_is_unchanged(text: str) -> None:
    assert texts(text) == [(STEPS, text)]


def test_prompt_schedule_has_each_text_once() -> None:
    schedule = schedule_prompts("a [b|c]", "[x:y:0.5]", 4)
    assert schedule.texts == ("x", "y", "a b", "a c")
    assert schedule.rows == ((0, 2), (0, 3), (1, 2), (1, 3))
    assert schedule_prompts("a [b|b]", None, 3).texts == ("a b",)
    assert schedule_prompts("a", None, 2).rows == ((0,), (0,))
    assert schedule_prompts("[a:b:0.5]", "c", 0).rows == ((0, 1),), "no step, but something to encode"
    same = schedule_prompts("a", "a", 2)
    assert (same.texts, same.rows) == (("a", "a"), ((0, 1), (0, 1))), "as it was before prompts could change"


def refusal(prompt: str, negative_prompt: str | None = None, steps: int = 100) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        check_prompts(prompt, negative_prompt, steps)
    return caught.value


def test_prompt_limits_are_named() -> None:
    options = list(map(str, range(MOST_TEXTS)))
    check_prompts(f"[{'|'.join(options[1:])}]", "a", 100)
    assert (
        "at most 64 different texts, with those of the negative prompt; got 65"
        in refusal(f"[{'|'.join(options)}]", "a").message
    )
    check_prompts("[a|b]" * MOST_CHANGES, None, 100)
    error = refusal("", "[a|b]" * (MOST_CHANGES + 1))
    assert error.message.startswith("negative_prompt must have at most 64 brackets")
    assert error.message.endswith("got 65.")
    assert error.param == "negative_prompt"
    assert "a weight must be from 0 to 10; got 11" in refusal("[a:(b:11):0.5]").message


@pytest.mark.parametrize(
    "text",
    [
        "a cat AND a dog",
        "a cat:1.2 AND a dog:0.8",
        "AND a dog",
        "a cat AND",
        "(a cat) AND (a DOG)",
        "CATS AND dogs",
        "cats AND DOGS",
        "A CAT\nAND\na dog",
        "猫 AND 狗",
        "[a cat AND a dog:b:0.5]",
        "a cat AND 2 DOGS",
    ],
)
@pytest.mark.parametrize("param", ["prompt", "negative_prompt"])
def test_prompt_with_the_word_and_in_capitals_is_refused(text: str, param: str) -> None:
    with pytest.raises(
        InvalidInput, match=rf"^{param}: AND between prompts is not supported .* in lower case"
    ) as caught:
        check_prompts(**{"prompt": "", "negative_prompt": None, "steps": 2, param: text})
    assert caught.value.param == param


@pytest.mark.parametrize(
    "text",
    [
        "A DOG AND A CAT",
        "A (DOG:1.2) AND [A CAT]",
        "BUY 2 AND GET 3",
        "a poster, R AND B",
        "AND",
        "1 AND 2",
        "a cat and a dog",
        "a cat And a dog",
        "rock_AND_roll",
        "SAND castle",
    ],
)
def test_prompt_all_in_capitals_keeps_its_word_and(text: str) -> None:
    check_prompts(f"<lora:cat AND dog:1> {text}", text, 2)


@pytest.mark.parametrize("param", ["prompt", "negative_prompt"])
def test_prompt_with_a_lora_tag_has_no_schedule(param: str) -> None:
    given = {"prompt": "", "negative_prompt": "", param: "a [cat <LORA:ink:0.8>:dog:3]"}
    with pytest.raises(InvalidInput, match=rf"^{param}: the LoRA tag '<LORA:ink:0.8>' cannot be used") as caught:
        schedule_prompts(**given, steps=2)
    assert caught.value.param == param


def test_prompt_may_have_lora_tags_before_they_are_taken_out() -> None:
    check_prompts("a [cat <LORA:ink:0.8>:dog:3]", None, 2)
    assert refusal("a <lora:x:1> AND b").message.startswith("prompt: AND between prompts")
    assert "the LoRA tag '<lora:ink:1>' cannot be used" in refusal("a cat", "<lora:ink:1> a dog").message


@dataclass
class Letters:
    """A tokenizer of letters without blanks."""

    ids: list[int]

    @classmethod
    def encode(cls, sequence: str, *, add_special_tokens: bool) -> Letters:
        return cls([ord(letter) for letter in sequence if not letter.isspace()])


@dataclass
class Special:
    max_tokens: int = 6
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0


def chunks(text: str) -> list[str]:
    """The letters of each chunk of up to four."""
    rows = chunk(text, Letters([]), Special()).ids
    assert (rows[:, 0] == 1).all()
    return ["".join(chr(token) for token in row if token > 2) for row in rows]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [""]),
        ("ab BREAK cd", ["ab", "cd"]),
        ("ab,BREAK,cd", ["ab,", ",cd"]),
        ("abcd BREAK ef", ["abcd", "ef"]),
        ("abcde BREAK f", ["abcd", "e", "f"]),
        ("BREAK a", ["", "a"]),
        ("a BREAK", ["a"]),
        ("a BREAK BREAK b", ["a", "", "b"]),
        ("BREAK", [""]),
        ("(ab BREAK cd:1.2)", ["ab", "cd"]),
        ("ab break cd", ["abbr", "eakc", "d"]),
        ("BREAKS", ["BREA", "KS"]),
    ],
)
def test_prompt_break_ends_a_chunk(text: str, expected: list[str]) -> None:
    assert chunks(text) == expected


def test_prompt_break_leaves_weights_with_their_words() -> None:
    weights = chunk("a(bc BREAK d:2)e", Letters([]), Special()).weights
    assert weights.tolist() == [[1, 1, 2, 2, 1, 1], [1, 2, 1, 1, 1, 1]]


def test_prompt_chunks_of_a_request_have_a_limit() -> None:
    parts = [chunk(text, Letters([]), Special()) for text in ("a BREAK b BREAK c", "d")]
    assert common_length(parts) == 3
    assert common_length([parts[1]] * MOST_CHUNKS) == 1
    with pytest.raises(InvalidInput, match=r"at most 512 chunks of tokens; got 171 times 3\."):
        common_length([parts[0], *[parts[1]] * 170])
