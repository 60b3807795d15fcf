"""Folds texts, so that one spelling of a word finds all spellings that read the same.

In this order: compatibility forms (full-width letters, ligatures; NFKC), characters that nobody sees, accents, letters
of other scripts that look like Latin ones, case, traditional Chinese characters, and spaces between single letters.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U000e0000-\U000e0fff]"
)
"""Control characters, zero-width spaces and joiners, soft hyphens, marks of direction, variation selectors, fillers,
tags."""
_ACCENTS = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
"""Marks that combine with any letter. Those of one script are kept, such as Thai vowels and the dots of kana."""
_ENCLOSED = {first + index: chr(ord("a") + index) for first in (0x1F150, 0x1F170, 0x1F1E6) for index in range(26)}
_ALWAYS = str.maketrans("ıøłđɑɡᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "ioldagabcdefghijklmnoprstuvwyz") | _ENCLOSED
"""Letters that read as plain Latin ones wherever they stand; those in white on black, and those of flags."""
_DOUBLES = "АВЕЅІЈКМНОРСТУХԚԜаеѕіјорсухһԁԛԝӏΑΒΕΖΗΙΚΜΝΟΡΤΥΧονι", "ABESIJKMHOPCTYXQWaesijopcyxhdqwlABEZHIKMNOPTYXovi"
"""Cyrillic and Greek letters that are drawn as a Latin one, and that one."""
_STRICT = str.maketrans(*_DOUBLES)
_LOOSE = _STRICT | str.maketrans("вгкмнтαβγεηκμρτυχω", "brkmhtabyenkuptuxw")
"""Also those that only look similar."""
_OTHERS = "\u0370-\u03ff\u0400-\u052f"
_OTHER = re.compile(f"[{_OTHERS}]")
_MIXED = re.compile(f"(?:[A-Za-z]+[{_OTHERS}]|[{_OTHERS}]+[A-Za-z])[A-Za-z{_OTHERS}]*")
"""A word of letters of Latin and another script, which no language writes."""
_LATIN = re.compile("[A-Za-z]")
_SINGLE = r"[^\W\d_](?![^\W_])"
_SPACERS = r"[ .\-_*·/|~+'\"]{1,3}"
_SINGLES = re.compile(rf"(?<![^\W_]){_SINGLE}(?:(?:{_SPACERS}{_SINGLE}){{2,}}|([\W_]{{1,3}}){_SINGLE}(?:\1{_SINGLE})+)")
"""Three or more single letters with the same signs between them, such as s-e-x, or with any of `_SPACERS`."""
_APART = re.compile(r"[\W_]+")
_ARTICLES = ("a", "i")
"""English words of one letter, which may stand before such letters."""
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_SINGLE_HAN = re.compile(rf"(?<![{_HAN}])[{_HAN}](?:[ .\-_*·/|~+'\"]+[{_HAN}])+(?![{_HAN}])")
"""Single Chinese characters with spaces between them. Words with spaces between them are another matter."""
_SIGNS = re.compile(r"[ .\-_*·/|~+'\"]+")
UNSPACED = re.compile(
    f"[{_HAN}\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f\u3100-\u312f\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
)
"""A character of a script that is written without spaces between words: Chinese, kana, Thai, Lao, Burmese, Khmer."""


def folded(text: str) -> tuple[str, ...]:
    """Return the foldings of a text, the likeliest first: one, or more where a Cyrillic or Greek word may be a Latin
    one in disguise, or an article stands before single letters.

    Signs and spaces are one space each; there are none at the ends.
    """
    if text.isascii():
        return _joined(_UNSEEN.sub("", text.casefold()))
    plain = _ACCENTS.sub("", _UNSEEN.sub("", unicodedata.normalize("NFKD", text)))
    plain = unicodedata.normalize("NFKC", plain).translate(_ALWAYS)
    plain = _MIXED.sub(lambda word: word[0].translate(_LOOSE), plain)
    found = [plain]
    others = _OTHER.findall(plain)
    # Nearly every word of a Cyrillic or Greek text has a letter without a double.
    if others and _LATIN.search(plain) and all(ord(letter) in _STRICT for letter in others):
        found.append(plain.translate(_STRICT))
    texts = (_simplified(unicodedata.normalize("NFKC", one.casefold())) for one in found)
    return tuple(dict.fromkeys(fold for one in texts for fold in _joined(one)))


def _joined(text: str) -> tuple[str, ...]:
    """The text without the signs between single letters. Where an article may stand before them there are two."""
    if not text.isascii():
        text = _SINGLE_HAN.sub(lambda run: _SIGNS.sub("", run[0]), text)
    words = _SINGLES.sub(lambda run: _APART.sub("", run[0]), text)
    if words == text:
        return (_spaced(text),)
    return tuple(dict.fromkeys(_spaced(one) for one in (words, _SINGLES.sub(_after_article, text))))


def _after_article(run: re.Match[str]) -> str:
    word = _APART.sub("", run[0])
    return f"{word[0]} {word[1:]}" if word[0] in _ARTICLES else word


def _spaced(text: str) -> str:
    return _separators().sub(" ", text).strip()


@cache
def _separators() -> re.Pattern[str]:
    """Runs of what is neither a letter, a digit nor a mark that belongs to a letter."""
    marks = [chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc")]
    return re.compile(f"(?:_|[^\\w{''.join(marks)}])+")


def _simplified(text: str) -> str:
    """The text in simplified Chinese characters."""
    return text.translate(_simple_characters()) if UNSPACED.search(text) else text


@cache
def _simple_characters() -> dict[int, str]:
    """Simplified characters by traditional ones, of OpenCC's tables; each one alone, whatever stands beside it."""
    import opencc  # reads its tables, which a service without a policy does not need

    characters = [chr(code) for first, last in ((0x3400, 0x4DC0), (0x4E00, 0xA000)) for code in range(first, last)]
    simple = opencc.OpenCC("t2s").convert("\n".join(characters)).split("\n")
    return {ord(old): new for old, new in zip(characters, simple, strict=True) if old != new}
