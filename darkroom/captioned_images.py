"""Images to train on, with their captions: `<name>.png` and `<name>.txt` in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
MAX_PIXELS = 64_000_000
"""Maximum number of pixels of an image: training makes it smaller in any case."""


@dataclass(frozen=True, kw_only=True)
class CaptionedImage:
    """An image, and the file with its caption in UTF-8."""

    image: Path
    caption: Path


def captioned_images(folder: Path) -> list[CaptionedImage]:
    """The images in a folder beside a text of their name, by name. Sub-folders and hidden files are not looked at.

    :raises OSError: the folder cannot be read.
    """
    found = []
    for image in sorted(folder.iterdir()):
        caption = image.with_suffix(".txt")
        if image.suffix.lower() in IMAGE_ENDINGS and not image.name.startswith(".") and caption.is_file():
            found.append(CaptionedImage(image=image, caption=caption))
    return found


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder by name, without hidden ones.

    :raises OSError: the folder cannot be read.
    """
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
