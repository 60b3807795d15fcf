"""`usage`: how many tokens a request has, by rules that need no tokenizer.

A model here has its own tokenizers, which run with its networks, and no model counts images in tokens of a common size.
So these are estimates: a token of text for each 4 bytes of UTF-8, and a token of an image for each 16 x 16 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_BYTES = 4
_SIDE = 16


def text_tokens(*texts: str | None) -> int:
    """Estimate the tokens of texts, each rounded up."""
    return sum(-(-len(text.encode()) // _BYTES) for text in texts if text)


def image_tokens(sizes: Iterable[tuple[int, int]]) -> int:
    """The tokens of images, by their widths and heights in pixels; sides are rounded up."""
    return sum(-(-width // _SIDE) * -(-height // _SIDE) for width, height in sizes)


@dataclass(frozen=True, kw_only=True)
class InputTokens:
    """The tokens of a request."""

    text: int
    image: int

    def usage(self, made: Iterable[tuple[int, int]]) -> dict[str, Any]:
        """`usage` of an answer.

        :param made: the sizes of the images that it holds.
        """
        total, output = self.text + self.image, image_tokens(made)
        return {
            "input_tokens": total,
            "input_tokens_details": {"text_tokens": self.text, "image_tokens": self.image},
            "output_tokens": output,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": output},
            "total_tokens": total + output,
        }
