"""Folds texts, so that one spelling of a word finds all spellings that read the same.

In this order: compatibility forms (full-width letters, ligatures; NFKC), characters that nobody sees, accents, letters
of other scripts that look like Latin ones, case, traditional Chinese characters, and spaces between single letters.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U000e0000-\U000e0fff]"
)
"""Zero-width spaces and joiners, soft hyphens, marks of direction, variation selectors, fillers, tags."""
_ACCENTS = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
"""Marks that combine with any letter. Those of one script are kept, such as Thai vowels and the dots of kana."""
_ALWAYS = str.maketrans("ıøłđɑɡᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "ioldagabcdefghijklmnoprstuvwyz")
"""Letters that read as plain Latin ones wherever they stand."""
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
_SINGLES = re.compile(r"(?<![^\W_])[^\W\d_]([ .\-_*·])[^\W\d_](?:\1[^\W\d_])+(?![^\W_])")
"""Three or more single letters with the same sign between them, such as s-e-x."""
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_SINGLE_HAN = re.compile(rf"(?<![{_HAN}])[{_HAN}](?:[ .\-_*·]+[{_HAN}])+(?![{_HAN}])")
"""Single Chinese characters with spaces between them. Words with spaces between them are another matter."""
_SIGNS = re.compile(r"[ .\-_*·]+")
UNSPACED = re.compile(
    f"[{_HAN}\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f\u3100-\u312f\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
)
"""A character of a script that is written without spaces between words: Chinese, kana, Thai, Lao, Burmese, Khmer."""


def folded(text: str) -> tuple[str, ...]:
    """Return the foldings of a text, the likeliest first: one, or two where a Cyrillic or Greek word may be a Latin one
    in disguise.

    Signs and spaces are one space each; there are none at the ends.
    """
    if text.isascii():
        return (_spaced(_joined(text.casefold())),)
    plain = _ACCENTS.sub("", _UNSEEN.sub("", unicodedata.normalize("NFKD", text)))
    plain = unicodedata.normalize("NFKC", plain).translate(_ALWAYS)
    plain = _MIXED.sub(lambda word: word[0].translate(_LOOSE), plain)
    found = [plain]
    others = _OTHER.findall(plain)
    # Nearly every word of a Cyrillic or Greek text has a letter without a double.
    if others and _LATIN.search(plain) and all(ord(letter) in _STRICT for letter in others):
        found.append(plain.translate(_STRICT))
    return tuple(_spaced(_joined(_simplified(unicodedata.normalize("NFKC", one.casefold())))) for one in found)


def _joined(text: str) -> str:
    """The text without the signs between single letters."""
    text = _SINGLES.sub(lambda run: run[0].replace(run[1], ""), text)
    return text if text.isascii() else _SINGLE_HAN.sub(lambda run: _SIGNS.sub("", run[0]), text)


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
