"""The modes of editing: their data, their parameters and the prompts that they make."""

from __future__ import annotations

import string
from typing import Any

import pytest

from darkroom.edit_modes.modes import MODES, edit_mode
from darkroom.edit_modes.params import AdditionalParams, TextParams, parse_additional_params, parse_text_params
from darkroom.edit_modes.prompt import enhanced_prompt, language_of, unread_text_params
from darkroom.errors import InvalidInput

CONTRACT = """
| 1 | 人物 + 人物 | 將兩個人物合併到同一個場景中 | 2 | ❌ | ❌ |
| 2 | 人物 + 產品 | 將人物和產品組合在一起 | 2 | ❌ | ❌ |
| 3 | 人物 + 場景 | 將人物放置在場景中 | 2 | ❌ | ❌ |
| 4 | 產品 + 產品 | 將多個產品組合在一起 | 2 | ❌ | ❌ |
| 5 | 多物件組合 | 將多個物件組合在一起 | 2 | ❌ | ❌ |
| 6 | 人物一致性編輯 | 編輯人物時保持身份一致性 | 1 | ❌ | ❌ |
| 7 | 產品一致性編輯 | 編輯產品時保持產品一致性 | 1 | ❌ | ❌ |
| 8 | 風格轉換 | 將圖片轉換為不同風格 | 1 | ❌ | ❌ |
| 9 | 文字替換 | 替換圖片中的文字 | 1 | ❌ | ✅ |
| 10 | 文字添加 | 在圖片中添加文字 | 1 | ❌ | ✅ |
| 11 | 文字字體編輯 | 更改文字的字體 | 1 | ❌ | ✅ |
| 12 | 文字顏色編輯 | 更改文字的顏色 | 1 | ❌ | ✅ |
| 13 | 深度圖控制 | 使用深度圖控制生成結果 | 1 | ✅ | ❌ |
| 14 | 邊緣圖控制 | 使用邊緣圖控制生成結果 | 1 | ✅ | ❌ |
| 15 | 關鍵點控制 | 使用關鍵點控制生成結果 | 1 | ✅ | ❌ |
| 16 | 草圖控制 | 使用草圖控制生成結果 | 1 | ✅ | ❌ |
"""
"""The table of the service that these modes come from: number, name, description, fewest images, control, text."""
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in CONTRACT.strip().splitlines()]
EVERY_TEXT = TextParams(old_text="OLD", new_text="NEW", position="center", font_type="Arial", color="red")


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_mode_is_the_one_of_the_contract(row: list[str]) -> None:
    number, name, description, fewest, control, text = row
    assert edit_mode(int(number)).to_json() == {
        "mode": int(number),
        "name": name,
        "description": description,
        "requires_multiple_images": int(fewest) > 1,
        "requires_controlnet": control == "✅",
        "requires_text_params": text == "✅",
        "min_images": int(fewest),
        "max_images": 5 if int(fewest) > 1 else 1,
    }


def test_modes_are_sixteen() -> None:
    assert list(MODES) == list(range(1, 17)) == [int(row[0]) for row in ROWS]


@pytest.mark.parametrize("value", [0, 17, -1, "17", "one", None, 1e400, pytest.param(10**5000, id="long")])
def test_mode_out_of_range_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="mode must be from 1 to 16; got ") as refused:
        edit_mode(value)
    assert refused.value.param == "mode"


@pytest.mark.parametrize("number", MODES)
def test_instruction_needs_only_what_the_mode_has(number: int) -> None:
    mode = MODES[number]
    for instruction in mode.instructions.values():
        names = {name for _, name, _, _ in string.Formatter().parse(instruction) if name}
        several = {"pictures"} if mode.requires_multiple_images else set()
        assert names - {"text"} == set(mode.text_params) | several
        assert instruction.endswith((".", "。"))


@pytest.mark.parametrize("number", MODES)
def test_prompt_has_everything_that_was_asked_for(number: int) -> None:
    mode = MODES[number]
    read = (*mode.text_params, *mode.optional_text_params)
    text = EVERY_TEXT.model_copy(update={name: None for name in TextParams.model_fields if name not in read})
    positions = [f"place{n}" for n in range(mode.min_images)]
    more = AdditionalParams(positions=positions, style="realistic", preserve_features=["face", "hair"])
    for prompt in ("two people in a park", "兩個人在公園裡"):
        made = enhanced_prompt(mode, prompt, images=mode.min_images, text=text, additional=more)
        said = [str(getattr(text, name)) for name in read]
        for part in (*said, *positions, "realistic", "face", "hair"):
            assert part in made, part
        assert made.endswith(prompt)
        assert made != enhanced_prompt(mode, prompt, images=mode.min_images, text=text)


@pytest.mark.parametrize(
    ("number", "prompt", "images", "text", "more", "made"),
    [
        (
            1,
            "They shake hands",
            3,
            {},
            {"positions": ["left", "right"], "style": "realistic", "preserve_features": ["face", "hair"]},
            "Put the people of Picture 1, Picture 2 and Picture 3 into one scene. Keep the face, hair and clothes of "
            "each person. Positions: Picture 1 left, Picture 2 right. Style: realistic. Keep unchanged: face, hair. "
            "They shake hands",
        ),
        (
            1,
            "兩人在公園握手",
            2,
            {},
            {"positions": ["左邊", "右邊"]},
            "將圖1和圖2的人物合併到同一個場景中，保持每個人的臉部、髮型和服裝不變。位置：圖1在左邊、圖2在右邊。兩人在公園握手",
        ),
        (
            9,
            "Replace the text",
            1,
            {"old_text": "Hello", "new_text": "Hi", "color": "red"},
            {},
            'Replace the text "Hello" in the picture with "Hi". Color of the text: red. Replace the text',
        ),
        (
            9,
            "",
            1,
            {"old_text": "{color}", "new_text": "%s"},
            {},
            'Replace the text "{color}" in the picture with "%s".',
        ),
        (
            10,
            "加上標題",
            1,
            {"new_text": "新年", "position": "上方"},
            {},
            "在圖中添加文字“新年”。文字的位置：上方。加上標題",
        ),
        (11, "go", 1, {"font_type": "Arial"}, {}, "Change the font of the text in the picture to Arial. go"),
        (
            12,
            "go",
            1,
            {"color": "red", "old_text": "A", "new_text": "B"},
            {},
            'Change the color of the text "A" in the picture to red. The text is now "B". go',
        ),
        (
            12,
            "go",
            1,
            {"color": "red", "new_text": "B"},
            {},
            'Change the color of the text "B" in the picture to red. go',
        ),
        (13, "照深度圖", 1, {}, {}, "編輯圖1，使結果符合圖2的深度圖。照深度圖"),
    ],
)
def test_prompt_of_a_mode(
    number: int, prompt: str, images: int, text: dict[str, Any], more: dict[str, Any], made: str
) -> None:
    found = enhanced_prompt(
        MODES[number], prompt, images=images, text=TextParams(**text), additional=AdditionalParams(**more)
    )
    assert found == made


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("make it red", "en"),
        ("", "en"),
        ("把背景變成紅色", "zh"),
        ("把背景变成红色", "zh"),
        ("將 LOGO 改成紅色", "zh"),
        ('Replace the sign with "新年快樂"', "en"),
        ("將文字改成 'Happy New Year to you all'", "zh"),
        ("Don't change the cat's 帽", "en"),
        ("背景を赤にして", "en"),
        ("rends-le rouge", "en"),
    ],
)
def test_language_of_a_prompt(prompt: str, language: str) -> None:
    assert language_of(prompt) == language


@pytest.mark.parametrize(
    ("number", "text", "param", "message"),
    [
        (9, {}, "text_params_json", "text_params_json is missing: mode 9 (文字替換) needs old_text and new_text."),
        (
            9,
            {"old_text": "a"},
            "text_params_json.new_text",
            "text_params_json.new_text is missing: mode 9 (文字替換) needs old_text and new_text.",
        ),
        (10, {"new_text": " "}, "text_params_json", "text_params_json is missing: mode 10 (文字添加) needs new_text."),
        (
            11,
            {"color": "red"},
            "text_params_json.font_type",
            "text_params_json.font_type is missing: mode 11 (文字字體編輯) needs font_type.",
        ),
        (12, {}, "text_params_json", "text_params_json is missing: mode 12 (文字顏色編輯) needs color."),
    ],
)
def test_prompt_without_what_the_mode_needs_is_refused(
    number: int, text: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        enhanced_prompt(MODES[number], "go", images=1, text=TextParams(**text))
    assert (refused.value.param, refused.value.message) == (param, message)


def test_prompt_with_more_positions_than_images_is_refused() -> None:
    with pytest.raises(InvalidInput, match="positions must have at most 2, one for each image; got 3"):
        enhanced_prompt(MODES[1], "go", images=2, additional=AdditionalParams(positions=["a", "b", "c"]))


@pytest.mark.parametrize(
    ("number", "images", "control", "param", "message"),
    [
        (1, 1, False, "images", "images must be 2 to 5 images for mode 1; got 1."),
        (5, 6, False, "images", "images must be 2 to 5 images for mode 5; got 6."),
        (6, 2, False, "images", "images must be 1 image for mode 6; got 2."),
        (8, 0, False, "images", "images must be 1 image for mode 8; got 0."),
        (
            13,
            1,
            False,
            "controlnet_image",
            "controlnet_image is missing: mode 13 (深度圖控制) needs a control image, or make_control in "
            "additional_params_json, for one that is made of the image.",
        ),
        (9, 1, True, "controlnet_image", "controlnet_image is for modes 13 to 16; mode 9 reads none."),
    ],
)
def test_images_that_do_not_fit_the_mode_are_refused(
    number: int, images: int, control: bool, param: str, message: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        MODES[number].check_images(images, control=control)
    assert (refused.value.param, refused.value.message) == (param, message)


@pytest.mark.parametrize("number", MODES)
def test_images_that_fit_the_mode(number: int) -> None:
    mode = MODES[number]
    for images in range(mode.min_images, mode.max_images + 1):
        mode.check_images(images, control=mode.requires_controlnet)


@pytest.mark.parametrize("value", [None, "", "{}", {}, '{"old_text": "", "unknown": 1}'])
def test_params_may_be_absent(value: object) -> None:
    assert parse_text_params(value).given == ()
    assert parse_additional_params(value).style is None


def test_params_are_read_of_json() -> None:
    text = parse_text_params('{"old_text": "舊", "new_text": "New", "size": 3}')
    assert (text.old_text, text.new_text, text.given) == ("舊", "New", ("old_text", "new_text"))
    assert dict(text.model_extra or {}) == {"size": 3}
    more = parse_additional_params({"positions": ["left"], "preserve_features": ["face"]})
    assert (more.positions, more.preserve_features, more.style) == (["left"], ["face"], None)


@pytest.mark.parametrize(
    ("parse", "value", "param", "part"),
    [
        (parse_text_params, "{", "text_params_json", "must be the JSON of an object; got '{'"),
        pytest.param(parse_text_params, "[" * 100_000, "text_params_json", "must be the JSON of an object", id="deep"),
        (parse_text_params, "[1]", "text_params_json", "must be the JSON of an object; got a list of 1"),
        (parse_text_params, 5, "text_params_json", "must be the JSON of an object; got 5"),
        (parse_text_params, {"color": 5}, "text_params_json.color", "Input should be a valid string; got 5"),
        (parse_text_params, {"new_text": "x" * 501}, "text_params_json.new_text", "at most 500 characters"),
        (parse_text_params, '{"new_text": "\\ud800"}', "text_params_json.new_text", "valid string"),
        (parse_additional_params, {"style": []}, "additional_params_json.style", "valid string; got a list of 0"),
        (parse_additional_params, {"positions": "left"}, "additional_params_json.positions", "valid list; got 'left'"),
        (parse_additional_params, {"positions": ["a"] * 6}, "additional_params_json.positions", "at most 5 items"),
        (parse_additional_params, {"positions": ["a", 1]}, "additional_params_json.positions[1]", "string; got 1"),
        (
            parse_additional_params,
            {"preserve_features": [""]},
            "additional_params_json.preserve_features[0]",
            "at least",
        ),
    ],
)
def test_params_that_are_none_are_refused(parse: Any, value: object, param: str, part: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(value)
    assert refused.value.param == param
    assert param in refused.value.message
    assert part in refused.value.message


def test_unread_text_params() -> None:
    assert unread_text_params(MODES[1], EVERY_TEXT) == EVERY_TEXT.given
    assert unread_text_params(MODES[10], EVERY_TEXT) == ("old_text",)
    assert unread_text_params(MODES[11], EVERY_TEXT) == ()
