"""Finds the trigger words of a LoRA: what all captions of its training have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

_WEAK = frozenset(
    ("a", "an", "the", "of", "on", "in", "at", "by", "to", "from", "for", "with", "and", "or", "is", "are", "this")
)
"""Words that neither begin nor end a phrase."""
_MOST = 5


def tags(captions: Sequence[str]) -> dict[str, int]:
    """How often each part of a caption between commas comes, the most frequent one first. Where captions are
    sentences, what all of them share counts as a part, too."""
    counts = Counter(part for caption in captions for part in _parts(caption))
    counts |= Counter(dict.fromkeys(trigger_words(captions), len(captions)))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def trigger_words(captions: Sequence[str]) -> tuple[str, ...]:
    """The parts between commas that all captions have; where they have none, the longest run of words in all of them.

    :returns: at most five; none where the captions have nothing in common.
    """
    if not captions:
        return ()
    shared = [part for part in dict.fromkeys(_parts(captions[0])) if all(part in _parts(one) for one in captions)]
    if shared:
        return tuple(shared[:_MOST])
    phrase = _longest_run([caption.replace(",", " ").split() for caption in captions])
    return (phrase,) if phrase else ()


def _parts(caption: str) -> list[str]:
    return [part for one in caption.split(",") if (part := one.strip())]


def _longest_run(captions: Sequence[Sequence[str]]) -> str:
    """The longest run of words in all captions, without weak words at its ends; "" for none."""
    first, others = min(captions, key=len), [f" {' '.join(words)} " for words in captions]
    runs = [first[at : at + size] for size in range(len(first), 0, -1) for at in range(len(first) - size + 1)]
    for run in runs:
        if run[0].lower() not in _WEAK and run[-1].lower() not in _WEAK:
            text = " ".join(run)
            if all(f" {text} " in other for other in others):
                return text
    return ""
