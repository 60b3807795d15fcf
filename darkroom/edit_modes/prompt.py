"""Makes the prompt of a mode: its instruction, what the parameters say, and then the client's own words."""

from __future__ import annotations

import re
from collections.abc import Mapping

from darkroom.edit_modes.modes import EditMode, Language
from darkroom.edit_modes.params import ADDITIONAL_PARAMS, TEXT_PARAMS, AdditionalParams, TextParams
from darkroom.errors import InvalidInput

_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|「[^」]*」|『[^』]*』|(?<!\w)'[^']*'(?!\w)")
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_WORD = re.compile(r"[A-Za-z]+")

_CLAUSES: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "picture": "Picture {n}",
        "and": " and ",
        "comma": ", ",
        "text": "the text",
        "this_text": 'the text "{text}"',
        "new_text": 'The text is now "{}".',
        "position": "Position of the text: {}.",
        "font_type": "Font of the text: {}.",
        "color": "Color of the text: {}.",
        "positions": "Positions: {}.",
        "at": "{picture} {position}",
        "style": "Style: {}.",
        "preserve_features": "Keep unchanged: {}.",
        "between": " ",
    },
    "zh": {
        "picture": "圖{n}",
        "and": "和",
        "comma": "、",
        "text": "文字",
        "this_text": "文字“{text}”",
        "new_text": "文字改為“{}”。",
        "position": "文字的位置：{}。",
        "font_type": "文字的字體：{}。",
        "color": "文字的顏色：{}。",
        "positions": "位置：{}。",
        "at": "{picture}在{position}",
        "style": "風格：{}。",
        "preserve_features": "保持不變：{}。",
        "between": "",
    },
}


def language_of(prompt: str) -> Language:
    """Return the language of a prompt: Chinese if it has more Chinese characters than words in Latin letters. Quoted
    text does not count; text with kana is Japanese, for which there are no instructions, and gets English ones."""
    plain = _QUOTED.sub(" ", prompt)
    if _KANA.search(plain):
        return "en"
    return "zh" if len(_CHINESE.findall(plain)) > len(_WORD.findall(plain)) else "en"


def enhanced_prompt(
    mode: EditMode,
    prompt: str,
    *,
    images: int,
    text: TextParams | None = None,
    additional: AdditionalParams | None = None,
    steered: bool = False,
) -> str:
    """Return the prompt that the model gets, in the language of the client's prompt, which stands at its end.

    :param images: how many the request has, without the control image.
    :param steered: whether a ControlNet reads the control image.
    :raises InvalidInput: a text parameter that the mode needs is missing; there are more positions than images.
    """
    text, additional = text or TextParams(), additional or AdditionalParams()
    _check(mode, images, text, additional)
    words = _CLAUSES[language_of(prompt)]
    instructions = mode.steered if steered and mode.steered else mode.instructions
    instruction = instructions[language_of(prompt)].format(
        pictures=_listed(words, [words["picture"].format(n=n) for n in range(1, images + 1)]),
        text=_meant_text(words, text),
        **text.model_dump(include=set(TextParams.model_fields)),
    )
    sentences = [
        instruction,
        *_text_clauses(mode, text, words),
        *_additional_clauses(additional, words),
        prompt.strip(),
    ]
    return words["between"].join(sentence for sentence in sentences if sentence)


def unread_text_params(mode: EditMode, text: TextParams) -> tuple[str, ...]:
    """Return the given text parameters that the mode does not read."""
    return tuple(name for name in text.given if name not in (*mode.text_params, *mode.optional_text_params))


def _check(mode: EditMode, images: int, text: TextParams, additional: AdditionalParams) -> None:
    missing = next((name for name in mode.text_params if name not in text.given), None)
    if missing is not None:
        place = f"{TEXT_PARAMS}.{missing}" if text.given else TEXT_PARAMS
        needs = " and ".join(mode.text_params)
        raise InvalidInput(f"{place} is missing: mode {mode.mode} ({mode.name}) needs {needs}.", param=place)
    positions = additional.positions or []
    if len(positions) > images:
        place = f"{ADDITIONAL_PARAMS}.positions"
        raise InvalidInput(
            f"{place} must have at most {images}, one for each image; got {len(positions)}.", param=place
        )


def _meant_text(words: Mapping[str, str], text: TextParams) -> str:
    meant = text.old_text or text.new_text
    return words["this_text"].format(text=meant) if meant else words["text"]


def _text_clauses(mode: EditMode, text: TextParams, words: Mapping[str, str]) -> list[str]:
    """The sentences of text parameters that are not in the mode's instruction."""
    named = {"new_text"} if text.old_text is None else set[str]()
    wanted = [name for name in mode.optional_text_params if name in words and name not in named]
    return [words[name].format(value) for name in wanted if (value := getattr(text, name)) is not None]


def _additional_clauses(additional: AdditionalParams, words: Mapping[str, str]) -> list[str]:
    found = []
    if additional.positions:
        pictures = [words["picture"].format(n=n) for n in range(1, len(additional.positions) + 1)]
        pairs = zip(pictures, additional.positions, strict=True)
        places = [words["at"].format(picture=picture, position=position) for picture, position in pairs]
        found.append(words["positions"].format(words["comma"].join(places)))
    if additional.style:
        found.append(words["style"].format(additional.style))
    if additional.preserve_features:
        found.append(words["preserve_features"].format(words["comma"].join(additional.preserve_features)))
    return found


def _listed(words: Mapping[str, str], names: list[str]) -> str:
    """Names as a list in prose: "a, b and c"."""
    *some, last = names
    return words["and"].join([words["comma"].join(some), last] if some else [last])
