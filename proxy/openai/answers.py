"""What answers in the shape of OpenAI look like, for the documentation. Answers may have more than is written here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from proxy.answers import Answer, Warned


class OpenaiErrorDetails(Answer):
    """What is wrong."""

    message: str = Field(description="One sentence for people: the field, its range, and what came.")
    type: str = Field(description="invalid_request_error, authentication_error, rate_limit_error or server_error, ...")
    param: str | None = Field(description="The field that is at fault.")
    code: str | None = Field(description="A name that does not change, such as model_not_found.")


class OpenaiError(Answer):
    """Every refusal and every failure below /v1."""

    error: OpenaiErrorDetails


class OpenaiImage(Answer):
    """An image, in base64 or behind a URL."""

    b64_json: str | None = None
    url: str | None = Field(None, description="Good for an hour.")
    seed: int


class InputTokensDetails(Answer):
    """What the tokens of a request are of."""

    text_tokens: int
    image_tokens: int


class Usage(Answer):
    """Estimates: a token of text for each 4 bytes, and a token of an image for each 16 x 16 pixels."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    total_tokens: int


class OpenaiImages(Warned):
    """Images, and how they were made."""

    created: int = Field(description="Seconds since the epoch.")
    data: list[OpenaiImage]
    background: Literal["opaque"]
    output_format: Literal["png", "jpeg", "webp"]
    quality: str = Field(description="As the request says it, else medium.")
    size: str = Field(description="The real one: width x height in pixels.")
    usage: Usage


class OpenaiModel(Answer):
    """A model that makes or edits images."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Seconds since the epoch: when it was exported.")
    owned_by: str


class OpenaiModels(Answer):
    """All of them."""

    object: Literal["list"]
    data: list[OpenaiModel]
