"""pipeline.json: what the denoising loop needs to know about a checkpoint, written beside the pipeline's model.py by
the exporter.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from typing_extensions import Self

FILE_NAME = "pipeline.json"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint of any diffusion family, without its weights.

    :param name: the hub id or the folder's name.
    :param digest: the first ten hexadecimal digits of the SHA-256 of the denoising network's weights.
    :param side: width and height that it was trained at, in pixels.
    :param scheduler: scheduler_config.json with what diffusers' pipeline of the family changes in it: schedulers are
        made of it as it is.
    :param latent_rgb: (channels + 1) x 3: RGB (0..1) per latent channel, then a constant: a preview is latents times
        it.
    """

    name: str
    digest: str
    side: int
    scheduler: dict[str, Any]
    latent_rgb: list[list[float]]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `folder`/pipeline.json. What an older export did not write has its default.

        :raises OSError, ValueError, KeyError: it is not there, or not such a file.
        """
        raw = json.loads((folder / FILE_NAME).read_text())
        absent = {field.name for field in fields(cls) if field.name not in raw and field.default is not MISSING}
        return cls(**{field.name: raw[field.name] for field in fields(cls) if field.name not in absent})

    @property
    def request_defaults(self) -> dict[str, Any]:
        """Values of fields that a request does not name, where they go before those of the family."""
        return {}

    def to_json(self) -> str:
        """The content of pipeline.json."""
        return json.dumps(asdict(self), indent=1) + "\n"
