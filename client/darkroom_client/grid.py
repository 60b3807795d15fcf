"""One image of many. Needs Pillow, which is not installed with the client."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from .models import Format, pillow

GAP = 4  # pixels between neighbours


def make_grid(pictures: Sequence[bytes], columns: int, format: Format, quality: int | None) -> bytes:
    """Put encoded images into rows of `columns`, on white; smaller ones stand at the top left of their place.

    :param quality: of webp and jpeg, 1..100; Pillow's default if None.
    :raises ImportError: Pillow is not installed.
    :raises OSError: one of them cannot be read, or the grid is too large for its format (also ValueError).
    """
    images = [pillow().open(BytesIO(data)).convert("RGB") for data in pictures]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width, height = max(image.width for image in images), max(image.height for image in images)
    size = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    sheet = pillow().new("RGB", size, "white")
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        sheet.paste(image, (column * (width + GAP), row * (height + GAP)))
    target = BytesIO()
    options: dict[str, Any] = {} if quality is None else {"quality": quality}
    sheet.save(target, format, **options)
    return target.getvalue()
