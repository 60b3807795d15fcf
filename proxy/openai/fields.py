"""The fields of OpenAI's images API that are no fields of a model. A form has all of them as texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel

from darkroom.request.edge import Text, Whole, optional, word
from darkroom.request.fields import Bounds

FORMATS = ("png", "jpeg", "webp")
RESPONSE_FORMATS = ("b64_json", "url")
MOST_IMAGES = 10
"""Most results of a request."""
RANGES: Mapping[str, Bounds] = {"n": (1, MOST_IMAGES), "output_compression": (0, 100), "partial_images": (0, 3)}
_NO_EFFECT = "Accepted for OpenAI's clients; it has no effect here."
_SIZE = r"^(auto|[1-9][0-9]{0,8}x[1-9][0-9]{0,8})$"

_Format = Annotated[Text, word("output_format", FORMATS, {"jpg": "jpeg"})]
_ResponseFormat = Annotated[Text, word("response_format", RESPONSE_FORMATS)]


class ImagesFields(BaseModel):
    """The fields that all three endpoints have."""

    n: Whole | None = optional("How many images. Image k is the one that the seed plus k gives.", 1)
    size: Text | None = optional(
        '"512x768", for example: width x height in pixels; "auto" is the default. A size that the model cannot make '
        "becomes the nearest that it can, which the answer names.",
        "auto",
        pattern=_SIZE,
    )
    strict_size: bool | None = optional("Whether a size that the model cannot make is refused.", False)
    response_format: _ResponseFormat | None = optional(
        "How images come: in base64, or as a URL that is good for an hour. url is the default of models whose names "
        "begin with dall-e, b64_json of all others. Those whose names begin with gpt-image always have b64_json.",
        enum=list(RESPONSE_FORMATS),
    )
    output_format: _Format | None = optional("How images are encoded.", "png", enum=list(FORMATS))
    output_compression: Whole | None = optional("The quality of JPEG and WebP; 0 counts as 1. By default 90.")
    quality: Text | None = optional(f"auto, low, medium, high, standard or hd. {_NO_EFFECT}")
    background: Text | None = optional("Images are opaque, whatever it says.")
    moderation: Text | None = optional(_NO_EFFECT)
    style: Text | None = optional(_NO_EFFECT)
    input_fidelity: Text | None = optional(_NO_EFFECT)
    user: Text | None = optional(_NO_EFFECT)
    safety_identifier: Text | None = optional(_NO_EFFECT)


class StreamFields(ImagesFields):
    """Those of the endpoints that can stream."""

    stream: bool | None = optional("Whether the answer is a stream of events.", False)
    partial_images: Whole | None = optional(
        "Of a stream: how many images of the result while it is made; fewer if there are not enough steps.", 0
    )


OF_OTHERS = frozenset(
    {
        *("size", "format", "quality", "preview_every"),
        *("num_images", "num_images_per_prompt"),
    }
)
"""Fields of the models that these endpoints do not have, or have under another name."""

_CALLED = {"init_image": "image", "images": "image", "num_images": "n", "format": "output_format"}


def as_sent(name: str | None, message: str) -> tuple[str | None, str]:
    """The name of a model's field and a message about it, with the name that this API has for the field."""
    plain, bracket, rest = (name or "").partition("[")
    called = _CALLED.get(plain)
    if called is None:
        return name, message
    return f"{called}{bracket}{rest}", message.replace(plain, called, 1)


def plain_quality(given: str | None) -> str:
    """What the answer says as `quality`: one of OpenAI's words for it."""
    word = (given or "").strip().lower()
    return {"hd": "high"}.get(word, word if word in ("low", "medium", "high", "xhigh", "max") else "medium")
