"""The modes: names, what each needs, its defaults, and its instruction in two languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from darkroom.errors import InvalidInput
from darkroom.request.fields import integer

Language = Literal["en", "zh"]
MODE_RANGE = (1, 16)
MOST_IMAGES = 5
TRUE_GUIDANCE_SCALE, GUIDANCE_SCALE = 4.0, 1.0
STEPS_OF_ONE, STEPS_OF_SEVERAL = 50, 40
"""Denoising steps of models for one image and for several, as their authors use them."""


@dataclass(frozen=True, kw_only=True)
class EditMode:
    """One mode.

    :param mode: its number.
    :param instructions: the first sentence of the prompt in each language. `{pictures}` are the images by number,
        `{old_text}`, `{new_text}`, `{font_type}` and `{color}` the text parameters, `{text}` the text that is meant.
    :param min_images, max_images: without the control image.
    :param text_params: the text parameters that it needs.
    :param optional_text_params: those that it reads besides.
    :param steered: the first sentence where a ControlNet reads the control image, which is no image by number then.
    :param requires_controlnet: whether it needs a control image.
    :param make_map: which map of the first image can be that control image: a value of a model's `make_map`.
    :param true_guidance_scale, guidance_scale, steps: where a request does not say them.
    """

    mode: int
    name: str
    description: str
    instructions: Mapping[Language, str]
    min_images: int = 1
    max_images: int = 1
    text_params: tuple[str, ...] = ()
    optional_text_params: tuple[str, ...] = ()
    steered: Mapping[Language, str] = field(default_factory=dict)
    requires_controlnet: bool = False
    make_map: str = ""
    true_guidance_scale: float = TRUE_GUIDANCE_SCALE
    guidance_scale: float = GUIDANCE_SCALE
    steps: int = field(default=STEPS_OF_ONE)

    @property
    def requires_multiple_images(self) -> bool:
        """Whether one image is too few."""
        return self.min_images > 1

    @property
    def requires_text_params(self) -> bool:
        """Whether it needs text parameters."""
        return bool(self.text_params)

    @property
    def several_pictures(self) -> bool:
        """Whether the model has to see several images: those of the request, or one and a control image."""
        return self.requires_multiple_images or self.requires_controlnet

    def to_json(self) -> dict[str, Any]:
        """What clients see."""
        return {
            "mode": self.mode,
            "name": self.name,
            "description": self.description,
            "requires_multiple_images": self.requires_multiple_images,
            "requires_controlnet": self.requires_controlnet,
            "requires_text_params": self.requires_text_params,
            "min_images": self.min_images,
            "max_images": self.max_images,
        }

    def check_images(self, images: int, *, control: bool) -> None:
        """Check what a request has.

        :param images: how many, without the control image.
        :param control: whether it has a control image.
        :raises InvalidInput: too few or too many; the control image is missing, or the mode reads none.
        """
        if not self.min_images <= images <= self.max_images:
            wanted = f"{self.min_images} to {self.max_images} images" if self.max_images > 1 else "1 image"
            raise InvalidInput(f"images must be {wanted} for mode {self.mode}; got {images}.", param="images")
        if self.requires_controlnet and not control:
            raise InvalidInput(
                f"controlnet_image is missing: mode {self.mode} ({self.name}) needs a control image, or "
                "make_control in additional_params_json, for one that is made of the image.",
                param="controlnet_image",
            )
        if control and not self.requires_controlnet:
            readers = [one.mode for one in MODES.values() if one.requires_controlnet]
            raise InvalidInput(
                f"controlnet_image is for modes {readers[0]} to {readers[-1]}; mode {self.mode} reads none.",
                param="controlnet_image",
            )


def edit_mode(value: object) -> EditMode:
    """Return a mode by its number.

    :raises InvalidInput: it is not from 1 to 16.
    """
    return MODES[integer({"mode": value}, "mode", 0, MODE_RANGE)]


def _several(mode: int, name: str, description: str, zh: str, en: str) -> EditMode:
    """A mode that puts together what several images show."""
    return EditMode(
        mode=mode,
        name=name,
        description=description,
        instructions={"zh": zh, "en": en},
        min_images=2,
        max_images=MOST_IMAGES,
        steps=STEPS_OF_SEVERAL,
    )


def _one(mode: int, name: str, description: str, zh: str, en: str) -> EditMode:
    """A mode that changes one image."""
    return EditMode(mode=mode, name=name, description=description, instructions={"zh": zh, "en": en})


def _text(
    mode: int, name: str, description: str, zh: str, en: str, *, needs: tuple[str, ...], reads: tuple[str, ...]
) -> EditMode:
    """A mode that edits the text in one image."""
    return EditMode(
        mode=mode,
        name=name,
        description=description,
        instructions={"zh": zh, "en": en},
        text_params=needs,
        optional_text_params=reads,
    )


def _control(mode: int, name: str, description: str, zh: str, en: str, *, make_map: str) -> EditMode:
    """A mode that follows a control image, which the model sees as Picture 2, or its ControlNet."""
    return EditMode(
        mode=mode,
        name=name,
        description=description,
        instructions={"zh": zh, "en": en},
        steered={"zh": "編輯圖中的內容。", "en": "Edit the picture."},
        requires_controlnet=True,
        make_map=make_map,
        steps=STEPS_OF_SEVERAL,
    )


_ALL = (
    _several(
        1,
        "人物 + 人物",
        "將兩個人物合併到同一個場景中",
        "將{pictures}的人物合併到同一個場景中，保持每個人的臉部、髮型和服裝不變。",
        "Put the people of {pictures} into one scene. Keep the face, hair and clothes of each person.",
    ),
    _several(
        2,
        "人物 + 產品",
        "將人物和產品組合在一起",
        "將{pictures}的人物和產品組合在一起，保持人物的身份和產品的外觀不變。",
        "Combine the person and the product of {pictures}. Keep who the person is and how the product looks.",
    ),
    _several(
        3,
        "人物 + 場景",
        "將人物放置在場景中",
        "將{pictures}的人物放置在場景中，保持人物的身份不變，光線與場景一致。",
        "Place the person in the scene of {pictures}. Keep who the person is, and match the light of the scene.",
    ),
    _several(
        4,
        "產品 + 產品",
        "將多個產品組合在一起",
        "將{pictures}的產品組合在一起，保持每個產品的外觀不變。",
        "Combine the products of {pictures}. Keep how each product looks.",
    ),
    _several(
        5,
        "多物件組合",
        "將多個物件組合在一起",
        "將{pictures}的物件組合在一起，保持每個物件的外觀不變。",
        "Combine the objects of {pictures}. Keep how each object looks.",
    ),
    _one(
        6,
        "人物一致性編輯",
        "編輯人物時保持身份一致性",
        "編輯圖中的人物，保持身份一致：臉部、髮型和體型不變。",
        "Edit the person in the picture. Keep the same identity: face, hair and build.",
    ),
    _one(
        7,
        "產品一致性編輯",
        "編輯產品時保持產品一致性",
        "編輯圖中的產品，保持產品一致：形狀、標誌和細節不變。",
        "Edit the product in the picture. Keep the same product: shape, logo and details.",
    ),
    _one(
        8,
        "風格轉換",
        "將圖片轉換為不同風格",
        "轉換圖片的風格，保持內容和構圖不變。",
        "Change the style of the picture. Keep its content and composition.",
    ),
    _text(
        9,
        "文字替換",
        "替換圖片中的文字",
        "將圖中的文字“{old_text}”替換為“{new_text}”。",
        'Replace the text "{old_text}" in the picture with "{new_text}".',
        needs=("old_text", "new_text"),
        reads=("position", "font_type", "color"),
    ),
    _text(
        10,
        "文字添加",
        "在圖片中添加文字",
        "在圖中添加文字“{new_text}”。",
        'Add the text "{new_text}" to the picture.',
        needs=("new_text",),
        reads=("position", "font_type", "color"),
    ),
    _text(
        11,
        "文字字體編輯",
        "更改文字的字體",
        "將圖中{text}的字體改為{font_type}。",
        "Change the font of {text} in the picture to {font_type}.",
        needs=("font_type",),
        reads=("old_text", "new_text", "position", "color"),
    ),
    _text(
        12,
        "文字顏色編輯",
        "更改文字的顏色",
        "將圖中{text}的顏色改為{color}。",
        "Change the color of {text} in the picture to {color}.",
        needs=("color",),
        reads=("old_text", "new_text", "position", "font_type"),
    ),
    _control(
        13,
        "深度圖控制",
        "使用深度圖控制生成結果",
        "編輯圖1，使結果符合圖2的深度圖。",
        "Edit Picture 1 so that the result follows the depth map of Picture 2.",
        make_map="depth",
    ),
    _control(
        14,
        "邊緣圖控制",
        "使用邊緣圖控制生成結果",
        "編輯圖1，使結果符合圖2的邊緣圖。",
        "Edit Picture 1 so that the result follows the edge map of Picture 2.",
        make_map="edges",
    ),
    _control(
        15,
        "關鍵點控制",
        "使用關鍵點控制生成結果",
        "編輯圖1，使結果符合圖2的關鍵點。",
        "Edit Picture 1 so that the result follows the pose keypoints of Picture 2.",
        make_map="keypoints",
    ),
    _control(
        16,
        "草圖控制",
        "使用草圖控制生成結果",
        "編輯圖1，使結果符合圖2的草圖。",
        "Edit Picture 1 so that the result follows the sketch of Picture 2.",
        make_map="sketch",
    ),
)

MODES: Mapping[int, EditMode] = MappingProxyType({mode.mode: mode for mode in _ALL})
"""The modes by their numbers, in their order."""
