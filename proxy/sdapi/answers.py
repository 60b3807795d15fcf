"""Answers of AUTOMATIC1111's API, for `/openapi.json`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, RootModel

from proxy.answers import Answer, Warned


class WebUiError(Answer):
    """Every refusal and every failure below /sdapi."""

    error: str = Field(description="A name that does not change, such as invalid_input.")
    detail: str = Field(description="One sentence for people: the field, its range, and what came.")
    body: str
    errors: str = Field(description="As `detail`.")
    param: str | None = Field(description="The field that is at fault.")


class ProcessedImages(Warned):
    """Images that were made."""

    images: list[str] = Field(description="PNGs in base64; with a control the control map behind them.")
    parameters: dict[str, Any] = Field(description="The fields of the request with their defaults.")
    info: str = Field(
        description="The JSON of an object: `seed`, `all_seeds`, `all_prompts`, `infotexts`, `sd_model_name`, "
        "`sd_model_hash`, `sampler_name`, `index_of_first_image`, `interrupted` and more."
    )


class EnlargedImage(Warned):
    """An enlarged image."""

    html_info: str
    image: str | None = Field(description="A PNG in base64.")


class EnlargedImages(Warned):
    """Enlarged images, in order."""

    html_info: str
    images: list[str] = Field(description="PNGs in base64.")


class WebUiPngInfo(Warned):
    """What an image says of itself."""

    info: str = Field(description="The parameters as text; empty where there are none.")
    items: dict[str, str] = Field(description="The other texts of the image.")
    parameters: dict[str, str] = Field(description="The parameters by the web UI's names.")


class WebUiProgress(Answer):
    """What runs."""

    progress: float = Field(ge=0, le=1)
    eta_relative: float = Field(ge=0, description="Seconds until the end; 0 where that is not known.")
    state: dict[str, Any] = Field(description="`job`, `job_count`, `job_no`, `sampling_step`, `sampling_steps` ...")
    current_image: str | None = Field(description="A PNG in base64: the images as they are now, at a small size.")
    textinfo: str | None


class WebUiOptions(Answer):
    """The options of the caller."""

    sd_model_checkpoint: str


class Nothing(RootModel[None]):
    """null."""


class Empty(Answer):
    """An empty object."""


class Items(RootModel[list[dict[str, Any]]]):
    """A list of objects."""


class Memory(Answer):
    """Bytes of memory."""

    ram: dict[str, Any]
    cuda: dict[str, Any]


class Flags(Answer):
    """Command line options of the web UI."""
