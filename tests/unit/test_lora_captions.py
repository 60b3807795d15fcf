"""The trigger words and tags that a trained LoRA file names."""

from __future__ import annotations

import pytest

from training.lora.captions import tags, trigger_words

SHARED: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "tags": (["ink style, a cat", "ink style, a dog, red", "a house, ink style"], ("ink style",)),
    "sentences": (
        ["a photo of a zork on a red background", "a photo of a zork on a green background"],
        ("photo of a zork",),
    ),
    "one": (["a photo of a zork"], ("a photo of a zork",)),
    "the same": (["a zork", "a zork"], ("a zork",)),
    "the word alone": (["zork in the rain", "the old zork"], ("zork",)),
    "whole words": (["two cats", "a cat"], ()),
    "nothing": (["a cat", "a dog"], ()),
    "no captions": (["", ""], ()),
    "no images": ([], ()),
}


@pytest.mark.parametrize("name", SHARED)
def test_trigger_words_are_what_all_captions_share(name: str) -> None:
    captions, wanted = SHARED[name]
    assert trigger_words(captions) == wanted


def test_tags_are_counted_with_the_trigger_words_first() -> None:
    assert tags(["a photo of a zork on a bus", "a photo of a zork on a train"]) == {
        "photo of a zork": 2,
        "a photo of a zork on a bus": 1,
        "a photo of a zork on a train": 1,
    }
    assert list(tags(["ink, a cat", "a cat, red, ink", "ink"]).items()) == [("ink", 3), ("a cat", 2), ("red", 1)]
