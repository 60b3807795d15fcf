"""Finds the words of many lists in a text at once: the Aho-Corasick algorithm, over folded texts."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ahocorasick_rs import AhoCorasick

from proxy.policy.folding import UNSPACED, folded

ANY = "*"
"""At the end or the beginning of a word: more letters may follow, or stand before."""
_INSIDE = re.compile(r"[^*]\*+[^*]")


@dataclass(frozen=True, kw_only=True)
class WordList:
    """Words or phrases, and the longer ones in which they mean no harm.

    :param exceptions: of a match inside of one nothing is said.
    """

    words: Sequence[str]
    exceptions: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A word of a list.

    :param open_start, open_end: whether other letters may stand beside it.
    """

    list: str
    word: str
    exception: bool
    open_start: bool
    open_end: bool

    def match(self, borders: _Borders, start: int, end: int) -> _Match | None:
        """Return the whole word around a place where the pattern is; None if the word is another one."""
        start = borders.before(start) if self.open_start else start
        end = borders.after(end) if self.open_end else end
        return _Match(entry=self, start=start, end=end) if borders.at(start) and borders.at(end) else None


@dataclass(frozen=True, kw_only=True)
class _Match:
    entry: _Entry
    start: int
    end: int


def pattern_of(word: str) -> str:
    """Return what of a word is searched for.

    :raises ValueError: it has neither letters nor digits, or a * inside.
    """
    if _INSIDE.search(word.strip()):
        raise ValueError("must have * at the beginning or the end only")
    pattern = folded(word.strip().strip(ANY))[0]
    if not pattern:
        raise ValueError("must have letters or digits")
    return pattern


class Words:
    """Word lists by their names, ready for searching.

    Words in scripts with spaces match whole words. A border is also where letters meet digits or Chinese characters.
    In scripts without spaces they match anywhere, so that they need exceptions.

    :ivar lists: the names.
    """

    def __init__(self, lists: Mapping[str, WordList]) -> None:
        self.lists = tuple(lists)
        self._entries: dict[str, list[_Entry]] = {}
        for name, one in lists.items():
            self._add(name, one.words, exception=False)
            self._add(name, one.exceptions, exception=True)
        self._patterns = list(self._entries)
        self._automaton = AhoCorasick(self._patterns) if self._patterns else None

    def __len__(self) -> int:
        """How many different patterns there are."""
        return len(self._patterns)

    def find(self, texts: Iterable[str]) -> dict[str, list[str]]:
        """Return the words that texts have, by the names of the lists; without the names of lists that have none.

        :param texts: as they were sent; they are folded here.
        """
        return self.find_folded(dict.fromkeys(fold for one in texts for fold in folded(one)))

    def find_folded(self, texts: Iterable[str]) -> dict[str, list[str]]:
        """As `find`, in texts that are folded already."""
        found: dict[str, dict[str, None]] = {}
        for text in texts:
            for match in self._matches(text):
                found.setdefault(match.entry.list, {})[match.entry.word] = None
        return {name: list(words) for name, words in found.items()}

    def _add(self, name: str, words: Iterable[str], *, exception: bool) -> None:
        for word in words:
            pattern, bare = pattern_of(word), word.strip()
            entry = _Entry(
                list=name,
                word=word,
                exception=exception,
                open_start=bare.startswith(ANY),
                open_end=bare.endswith(ANY),
            )
            self._entries.setdefault(pattern, []).append(entry)

    def _matches(self, text: str) -> list[_Match]:
        """The longest words in a text that are no part of an exception."""
        if self._automaton is None:
            return []
        hits, borders = self._automaton.find_matches_as_indexes(text, overlapping=True), _Borders(text)
        by_list: dict[str, list[_Match]] = {}
        for index, start, end in hits:
            for entry in self._entries[self._patterns[index]]:
                match = entry.match(borders, start, end)
                if match is not None:
                    by_list.setdefault(entry.list, []).append(match)
        return [match for some in by_list.values() for match in _outermost(some)]


def _outermost(matches: Sequence[_Match]) -> list[_Match]:
    """The words of one list that are not inside of a longer word or an exception. Linear but for sorting."""
    kept: list[_Match] = []
    # At the same place the exception goes first, and what reaches farther before what is inside of it.
    for match in sorted(matches, key=lambda one: (one.start, -one.end, not one.entry.exception)):
        if not kept or match.end > kept[-1].end:
            kept.append(match)
    return [match for match in kept if not match.entry.exception]


class _Borders:
    """Where words may begin and end in a text: between two characters."""

    def __init__(self, text: str) -> None:
        self._text = text

    def at(self, place: int) -> bool:
        """Whether a border is there."""
        if place in (0, len(self._text)):
            return True
        before, after = _kind(self._text[place - 1]), _kind(self._text[place])
        return not before or before != after

    def before(self, place: int) -> int:
        """The last border that is not behind a place."""
        return self._all[bisect_right(self._all, place) - 1]

    def after(self, place: int) -> int:
        """The first border that is not before a place."""
        return self._all[bisect_left(self._all, place)]

    @cached_property
    def _all(self) -> list[int]:
        return [place for place in range(len(self._text) + 1) if self.at(place)]


@lru_cache(maxsize=10_000)
def _kind(character: str) -> str:
    """L for a letter, or a mark that belongs to one, N for a digit, "" for what has no borders."""
    if UNSPACED.match(character):
        return ""
    kind = unicodedata.category(character)[0]
    return "L" if kind == "M" else kind if kind in "LN" else ""
