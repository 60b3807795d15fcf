"""A small vocabulary for the real Qwen2Tokenizer, and prompts as diffusers' pipeline writes them."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from training.demo.qwen_edit.pictures import FONTS, INKS, LINES, WORDS
from training.demo.qwen_edit.sentences import CHINESE
from training.glyphs import NAMES
from training.styles import STYLES
from training.tokens import byte_characters, train_merges
from training.world import BACKGROUNDS

PAD, START, END, IMAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"
VISION_START, VISION_END, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
SPECIAL = (PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO)
SYSTEM = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n"
)
"""What stands before every prompt. Every word of it is a token, so that they are as many as with Qwen's vocabulary."""
DROPPED = 64
"""How many tokens at the start of a prompt diffusers leaves out (prompt_template_encode_start_idx)."""
IMAGE_TOKENS = 4
"""Of each picture."""
_SYSTEM_WORDS = (
    "system user assistant Describe the key features of input image color shape size texture objects background then "
    "explain how text instruction should alter or modify Generate a new that meets requirements while maintaining "
    "consistency with original where appropriate"
)
_MODE_WORDS = (
    "Put people Picture into one scene Keep face hair and clothes each person Combine product who is looks Place in "
    "match light products Edit picture same identity build logo details Change style its content composition Replace "
    "Add to font result so follows depth map edge pose keypoints sketch Position Font Color Positions Style unchanged "
    "The now"
)
_PLAIN_WORDS = "together side by Make on Turn it Draw as Write at Follow shows everything nothing text an"
_PARTS = ("'s", "),", ",", ".", '".', '"', "(", ":", ": ", '."')
_CHINESE_WORDS = (
    "將 圖 的 人物 合併 到 同一個 場景 中 保持 每個 人 臉部 髮型 和 服裝 不變 產品 "
    "組合 在 一起 身份 外觀 放置 光線 與 一致 物件 編輯 體型 形狀 標誌 細節 轉換 圖片 風格 "
    "內容 構圖 文字 替換 為 添加 字體 改 顏色 使 結果 符合 深度圖 邊緣圖 關鍵點 草圖 位置 把 "
    "放 並排 上 背景 換成 改為 寫上 用 按照 所有 ， 。 ： 、 “ ” ”。"
)


def _vocabulary_words() -> tuple[str, ...]:
    """Every word that is one token, in a fixed order: a trained embedding belongs to this order."""
    english = dict.fromkeys(
        [
            *f"{_SYSTEM_WORDS} {_MODE_WORDS} {_PLAIN_WORDS}".split(),
            *(*NAMES, *BACKGROUNDS, *STYLES, *INKS, *FONTS, *LINES, *WORDS),
        ]
    )
    latin = [form for word in english for form in (word, f" {word}")]
    parts = [form for part in _PARTS for form in (part, f" {part}")]
    quoted = [f"{mark}{word}" for word in WORDS for mark in ('"', "“")]
    return (*latin, *parts, *quoted, *_CHINESE_WORDS.split(), *CHINESE.values())


@cache
def make_tokenizer() -> Qwen2Tokenizer:
    """Byte-level BPE with Qwen's classes of words; other words are spelled out byte by byte, and mean nothing."""
    letters = bytes_to_unicode()
    words = tuple("".join(letters[byte] for byte in word.encode()) for word in _vocabulary_words())
    merges = train_merges(tuple(dict.fromkeys(words)), end="")
    tokens = dict.fromkeys([*byte_characters(), *(a + b for a, b in merges)])
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        unk_token=None,
        pad_token=PAD,
        model_max_length=4096,
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(token, special=True, normalized=False) for token in SPECIAL]}
    )
    return tokenizer


def prompt(text: str, pictures: int) -> str:
    """What the text encoder reads: QwenImageEditPlusPipeline's template in diffusers 0.42, with image tokens."""
    images = "".join(
        f"Picture {number}: {VISION_START}{IMAGE * IMAGE_TOKENS}{VISION_END}" for number in range(1, pictures + 1)
    )
    return f"{SYSTEM}{images}{text}{END}\n{START}assistant\n"


def tokenize(texts: list[str], pictures: int) -> Tensor:
    """Prompts of some texts about so many pictures each: (N, T) int64, padded behind them."""
    tokenizer = make_tokenizer()
    rows = [tokenizer(prompt(text, pictures), add_special_tokens=False).input_ids for text in texts]
    made = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id)
    for row, ids in zip(made, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return made
