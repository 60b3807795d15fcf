"""Foldings of texts, what models read of prompts, and the words that are found there."""

from __future__ import annotations

import pytest

from proxy.policy.folding import folded
from proxy.policy.readings import readings
from proxy.policy.words import WordList, Words, pattern_of


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        ("  A Cat,\tand_a-dog! ", "a cat and a dog"),
        ("Ｇｕｎ", "gun"),
        ("𝐠𝓾ⓝ ﬁn", "gun fin"),
        ("g\u200bu\u00adn\ufeff", "gun"),
        ("g\u202eun\U000e0061 x\ufe0f", "gun x"),
        ("gün ñ Å", "gun n a"),
        ("g\u0336u\u20ddn", "gun"),
        ("ɢᴜɴ bøat", "gun boat"),
        ("Straße", "strasse"),
        ("槍支 龍", "枪支 龙"),
        ("⼥人", "女人"),
        ("枪 支 - 弹", "枪支弹"),
        ("公鸡 巴士", "公鸡 巴士"),
        ("枪，支", "枪 支"),
        ("s e x", "sex"),
        ("s.e.x and a.b", "sex and a b"),
        ("a b, c d", "a b c d"),
        ("s, e, x", "sex"),
        ("s e-x", "sex"),
        ("w e a-p o n", "weapon"),
        ("s . e . x", "sex"),
        ("s|e/x", "sex"),
        ("g\x00u\x1bn\x85 a\tb", "gun a b"),
        ("🅖🅄🇳", "gun"),
        ("枪/支", "枪支"),
        ("हिन्दी की", "हिन्दी की"),
        ("ｶﾞ ガ", "ガ ガ"),
        ("ไม้", "ไม้"),
        ("한국어", "한국어"),
        ("кот", "кот"),
        ("γάτα", "γατα"),
    ],
)
def test_folding(text: str, found: str) -> None:
    assert folded(text) == (found,)


def test_article_before_single_letters() -> None:
    assert folded("a g u n, a s s") == ("agun ass", "a gun a ss")
    assert folded("I s-e-x you") == ("isex you", "i sex you")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nudе", ("nude",)),
        ("ΝUDE", ("nude",)),
        ("pоrn на фоне", ("porn на фоне",)),
        ("ѕех", ("ѕех",)),
        ("ѕех on a beach", ("ѕех on a beach", "sex on a beach")),
        ("сор и кот with", ("сор и кот with",)),
    ],
)
def test_letters_of_other_scripts_are_latin_ones_only_in_disguise(text: str, found: tuple[str, ...]) -> None:
    assert folded(text) == found


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a cat", {"a cat"}),
        ("a <lora:gun:0.8>cat", {"a cat"}),
        ("wea<lora:x:1>pon", {"weapon"}),
        ("(wea:1.2)pon", {"(wea)pon", "weapon", "wea pon"}),
        ("[a|b]", {"[a|b]", "a", "b"}),
        ("[a:b:0.5]", {"[a:b:0.5]", "a", "b"}),
        ("[b:0.5]", {"[b:0.5]", "", "b"}),
        ("a BREAK b", {"a BREAK b", "a   b"}),
        (r"\(a\)", {r"\(a\)", "(a)"}),
        ("(a:99)", {"(a)", "(a:99)"}),
        ("((((", {"((((", ""}),
    ],
)
def test_readings(prompt: str, found: set[str]) -> None:
    assert set(readings(prompt, [4])) == found


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_readings_are_those_of_all_steps(steps: int) -> None:
    """Also of the second call that some schedulers make for each step."""
    assert {"a", "b"} <= set(readings("[a|b]", [max(steps, 2)]))
    assert "x" in readings("[y:x:1]", [max(steps, 2)])


def test_readings_of_many_changes_are_bounded() -> None:
    assert len(readings("[a|b|c|d|e|f|g]" * 9 + "[a:b:0.1]" * 50, [150])) <= 2 * 4 * 64
    assert readings("[a|b]" * 65, [20])[0] == "[a|b]" * 65


WORDS = Words(
    {
        "weapons": WordList(
            words=["gun", "rifle*", "*bomb", "ak47", "槍", "assault rifle"], exceptions=["water gun*", "水枪"]
        ),
        "rude": WordList(words=["ass", "Bitch", "胸"], exceptions=["鸡胸肉", "ass backwards"]),
        "russian": WordList(words=["сор"]),
    }
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a Gun!", {"weapons": ["gun"]}),
        ("guns begun gunman", {}),
        ("gun2 4gun", {"weapons": ["gun"]}),
        ("riflemen", {"weapons": ["rifle*"]}),
        ("an assault rifle", {"weapons": ["assault rifle"]}),
        ("assault-rifle", {"weapons": ["assault rifle"]}),
        ("a photobomb", {"weapons": ["*bomb"]}),
        ("bomber", {}),
        ("AK47 ak470 xak47", {"weapons": ["ak47"]}),
        ("water guns", {}),
        ("a water gun and a gun", {"weapons": ["gun"]}),
        ("an assassin passes the grass", {}),
        ("ass backwards, ass", {"rude": ["ass"]}),
        ("画一把枪吧", {"weapons": ["槍"]}),
        ("画gun吧", {"weapons": ["gun"]}),
        ("水槍", {}),
        ("雞胸肉", {}),
        ("鸡胸肉和胸", {"rude": ["胸"]}),
        ("a gun, an ass", {"weapons": ["gun"], "rude": ["ass"]}),
        ("a сор with cat", {"russian": ["сор"]}),
        ("", {}),
    ],
)
def test_words_of_lists(text: str, found: dict[str, list[str]]) -> None:
    assert WORDS.find([text]) == found


def test_words_of_several_texts_are_named_once() -> None:
    assert WORDS.find(["gun", "GUN", "ass gun"]) == {"weapons": ["gun"], "rude": ["ass"]}
    assert Words({}).find(["gun"]) == {}


@pytest.mark.parametrize("word", ["", "  ", "*", "!?", "\u200b", "a*b"])
def test_words_that_match_nothing_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="must have"):
        pattern_of(word)


def test_thousands_of_words_and_a_hostile_text() -> None:
    """Nested words in a text that is nothing else: what is found is right, and the work is linear in the text."""
    nested = Words({"many": WordList(words=["a" * n + "*" for n in range(1, 5)] + [f"word{n}" for n in range(5000)])})
    assert nested.find(["a" * 4000]) == {"many": ["a*"]}
    assert nested.find(["word4999 word50000 " * 200]) == {"many": ["word4999"]}
