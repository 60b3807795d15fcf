"""What is asked in English and Chinese: plain sentences, and the prompts that the service makes of them by mode."""

from __future__ import annotations

import random
from collections.abc import Mapping

from darkroom.edit_modes.modes import MODES, Language
from darkroom.edit_modes.params import TextParams
from darkroom.edit_modes.prompt import enhanced_prompt
from training.demo.qwen_edit.cases import KEEP, Case
from training.demo.qwen_edit.pictures import plain_ink
from training.world import with_article

CHINESE: Mapping[str, str] = {
    **{"cat": "貓", "dog": "狗", "panda": "熊貓", "frog": "青蛙", "pig": "豬", "rabbit": "兔子", "lion": "獅子"},
    **{"elephant": "大象", "fish": "魚", "octopus": "章魚", "turtle": "烏龜", "butterfly": "蝴蝶", "owl": "貓頭鷹"},
    **{"penguin": "企鵝", "apple": "蘋果", "banana": "香蕉", "pizza": "披薩", "cake": "蛋糕", "carrot": "胡蘿蔔"},
    **{"burger": "漢堡", "donut": "甜甜圈", "mushroom": "蘑菇", "grapes": "葡萄", "watermelon": "西瓜", "car": "汽車"},
    **{"bus": "巴士", "rocket": "火箭", "boat": "帆船", "tree": "樹", "flower": "花", "cactus": "仙人掌"},
    **{"house": "房子", "star": "星星", "moon": "月亮", "heart": "愛心", "ball": "足球", "crown": "皇冠"},
    **{"umbrella": "雨傘", "robot": "機器人", "ghost": "幽靈"},
    **{"red": "紅色", "green": "綠色", "blue": "藍色", "yellow": "黃色", "white": "白色", "black": "黑色"},
    **{"pink": "粉紅色", "purple": "紫色"},
    **{"photo": "照片", "drawing": "圖畫", "outline": "輪廓"},
    **{"top": "上方", "bottom": "下方", "center": "中央"},
    **{"sans": "普通", "bold": "粗體", "pixel": "像素"},
}
"""English word of the world -> traditional Chinese."""

_PLAIN: Mapping[Language, Mapping[str, tuple[str, ...]]] = {
    "en": {
        "together": ("Put {things} together.", "{things} side by side.", "Put {things} in one picture."),
        "scene": ("Put {things} in the scene of Picture 2.", "Put {things} on the background of Picture 2."),
        "background": (
            "Make the background {background}.",
            "Change the background to {background}.",
            "Put {things} on {article} background.",
        ),
        "on": (" Make the background {background}.", " On {article} background."),
        "style": ("Make it {style}.", "Turn it into {style}.", "Draw it as {style}."),
        "replace": ('Replace "{old}" with "{new}".', 'Change the text "{old}" to "{new}".'),
        "add": ('Write "{new}" at the {position}.', 'Add the text "{new}" at the {position}.'),
        "add_in": ('Write "{new}" in {color} at the {position} in a {font} font.',),
        "font": ("Make the text {font}.", 'Write "{new}" in a {font} font.'),
        "color": ("Make the text {color}.", 'Change the color of "{new}" to {color}.'),
        "follow": ("Follow the map.", "Put {things} where Picture 2 shows it.", "Follow Picture 2."),
        "keep": ("Keep everything.", "Change nothing."),
    },
    "zh": {
        "together": ("把{things}放在一起。", "將{things}並排。"),
        "scene": ("把{things}放到圖2的場景中。", "將{things}放到圖2的背景上。"),
        "background": ("把背景改為{background}。", "將背景換成{background}。", "把{things}放到{background}背景上。"),
        "on": ("背景改為{background}。", "背景換成{background}。"),
        "style": ("改為{style}。", "把風格換成{style}。"),
        "replace": ("把“{old}”換成“{new}”。", "將文字“{old}”改為“{new}”。"),
        "add": ("在{position}寫上“{new}”。", "在{position}添加文字“{new}”。"),
        "add_in": ("在{position}用{color}{font}字體寫上“{new}”。",),
        "font": ("把字體換成{font}。", "將“{new}”的字體改為{font}。"),
        "color": ("把文字改為{color}。", "將“{new}”的顏色換成{color}。"),
        "follow": ("按照圖2。", "把{things}放到圖2的位置。"),
        "keep": ("保持不變。", "保持所有內容不變。"),
    },
}
_KINDS: Mapping[int, str] = {
    **dict.fromkeys((1, 2, 4, 5), "together"),
    **{KEEP: "keep", 3: "scene", 6: "background", 7: "background", 8: "style"},
    **{9: "replace", 10: "add", 11: "font", 12: "color"},
    **dict.fromkeys(range(13, 17), "follow"),
}
_ENHANCED = 0.5
"""Share of the sentences that are as `/multi-image-editing` makes them."""


def random_sentence(rng: random.Random, case: Case) -> str:
    """A sentence for `case`, as training meets them."""
    return sentence(
        rng, case, language=rng.choice(("en", "zh")), enhanced=case.mode != KEEP and rng.random() < _ENHANCED
    )


def sentence(rng: random.Random, case: Case, *, language: Language, enhanced: bool) -> str:
    """A sentence for `case`.

    :param enhanced: as the service makes it of the plain one for the case's mode; not for `KEEP`.
    """
    plain = _plain(rng, case, language)
    if not enhanced:
        return plain
    images = len(case.given) - (case.mode >= 13)
    return enhanced_prompt(MODES[case.mode], plain, images=images, text=_params(case, language))


def _plain(rng: random.Random, case: Case, language: Language) -> str:
    kinds, words = _PLAIN[language], _words(case, language)
    kind = "add_in" if case.mode == 10 and _styled(case) else _KINDS[case.mode]
    made = rng.choice(kinds[kind])
    if kind == "together" and case.named:
        made += rng.choice(kinds["on"])
    return made.format(**words)


def _word(word: str, language: Language) -> str:
    return word if language == "en" else CHINESE[word]


def _words(case: Case, language: Language) -> dict[str, str]:
    wanted, given = case.wanted, case.given[0]
    glyphs = [thing.glyph for thing in wanted.things]
    if language == "en":
        things = " and ".join(f"the {glyph}" for glyph in glyphs)
        style = with_article(wanted.style)
    else:
        things, style = "和".join(CHINESE[glyph] for glyph in glyphs), CHINESE[wanted.style]
    words = {
        "things": things,
        "background": _word(wanted.background, language),
        "article": with_article(wanted.background),
        "style": style,
    }
    if wanted.writing is not None:
        old = given.writing.word if given.writing else ""
        params = _params(case, language)
        words |= {
            "old": old,
            "new": wanted.writing.word,
            "position": _word(wanted.writing.position, language),
            "font": params.font_type or _word(wanted.writing.font, language),
            "color": params.color or _word(wanted.writing.ink, language),
        }
    return words


def _styled(case: Case) -> bool:
    """Whether the wanted word has a colour or font that has to be asked for."""
    writing = case.wanted.writing
    assert writing is not None
    return (writing.font, writing.ink) != ("sans", plain_ink(case.wanted.background))


def _params(case: Case, language: Language) -> TextParams:
    """The text parameters of a request for `case`: those that its mode needs."""
    writing, before = case.wanted.writing, case.given[0].writing
    if writing is None or case.mode == KEEP:
        return TextParams()
    font, color = _word(writing.font, language), _word(writing.ink, language)
    if case.mode == 10:
        asked = {"font_type": font, "color": color} if _styled(case) else {}
        return TextParams(new_text=writing.word, position=_word(writing.position, language), **asked)
    assert before is not None
    if case.mode == 9:
        return TextParams(old_text=before.word, new_text=writing.word)
    return (
        TextParams(old_text=before.word, font_type=font)
        if case.mode == 11
        else TextParams(old_text=before.word, color=color)
    )
