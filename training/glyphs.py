"""The 40 things of the demo world: their names, their emoji, and the committed sheet of their images."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from darkroom.files import write_atomically

GLYPHS: dict[str, str] = {
    "cat": "🐱",
    "dog": "🐶",
    "panda": "🐼",
    "frog": "🐸",
    "pig": "🐷",
    "rabbit": "🐰",
    "lion": "🦁",
    "elephant": "🐘",
    "fish": "🐟",
    "octopus": "🐙",
    "turtle": "🐢",
    "butterfly": "🦋",
    "owl": "🦉",
    "penguin": "🐧",
    "apple": "🍎",
    "banana": "🍌",
    "pizza": "🍕",
    "cake": "🎂",
    "carrot": "🥕",
    "burger": "🍔",
    "donut": "🍩",
    "mushroom": "🍄",
    "grapes": "🍇",
    "watermelon": "🍉",
    "car": "🚗",
    "bus": "🚌",
    "rocket": "🚀",
    "boat": "⛵",
    "tree": "🌲",
    "flower": "🌻",
    "cactus": "🌵",
    "house": "🏠",
    "star": "⭐",
    "moon": "🌙",
    "heart": "❤",
    "ball": "⚽",
    "crown": "👑",
    "umbrella": "☂",
    "robot": "🤖",
    "ghost": "👻",
}
"""English name -> emoji. The order is the order on the sheet; the captions use the names as single words."""

NAMES: tuple[str, ...] = tuple(GLYPHS)
CELL = 96
"""Side of a glyph's cell on the sheet, in pixels."""
COLUMNS = 8
SHEET = Path(__file__).parent / "glyphs.png"
FONT_SIZE = 109
"""The one size at which Noto Color Emoji holds its bitmaps."""


def draw_sheet(font: Path) -> bytes:
    """Draw every glyph with Noto Color Emoji into a PNG sheet, longest side `CELL`, centred in its cell.

    :raises OSError: `font` is missing or is no font.
    """
    face = ImageFont.truetype(str(font), FONT_SIZE)
    rows = -(-len(NAMES) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for index, name in enumerate(NAMES):
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((0, 0), GLYPHS[name], font=face, embedded_color=True)
        glyph = canvas.crop(canvas.getbbox())
        scale = CELL / max(glyph.size)
        glyph = glyph.resize((round(glyph.width * scale), round(glyph.height * scale)), Image.Resampling.LANCZOS)
        x, y = index % COLUMNS * CELL, index // COLUMNS * CELL
        sheet.paste(glyph, (x + (CELL - glyph.width) // 2, y + (CELL - glyph.height) // 2))
    data = BytesIO()
    sheet.save(data, "PNG", optimize=True)
    return data.getvalue()


def write_sheet(font: Path, path: Path = SHEET) -> int:
    """Draw the sheet with `font` and write it to `path`; returns its size in bytes."""
    data = draw_sheet(font)
    write_atomically(path, data)
    return len(data)


@cache
def sprites() -> dict[str, NDArray[np.uint8]]:
    """Every glyph by name: (96, 96, 4) uint8 RGBA, straight alpha, read from the committed sheet."""
    with Image.open(SHEET) as image:
        sheet = np.asarray(image.convert("RGBA"))
    rows = [(index % COLUMNS * CELL, index // COLUMNS * CELL) for index in range(len(NAMES))]
    return {name: sheet[y : y + CELL, x : x + CELL] for name, (x, y) in zip(NAMES, rows, strict=True)}
