"""What an installation sets: the `Limits` of a family are whole numbers, with one setting for each of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class EnvironmentLimits:
    """The base of every family's limits. `prefix` begins the names of its settings: "upscale" and the field `tile` are
    UPSCALE_TILE."""

    prefix: ClassVar[str]

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment variables; those that are absent or empty leave the default."""
        return cls._read(lambda name: os.environ.get(name.upper()))

    @classmethod
    def of(cls, settings: object) -> Self:
        """Read attributes, in lower case."""
        return cls._read(lambda name: getattr(settings, name))

    @classmethod
    def _read(cls, get: Callable[[str], object]) -> Self:
        given = {field.name: get(f"{cls.prefix}_{field.name}") for field in fields(cls)}
        return cls(**{name: int(str(value)) for name, value in given.items() if value not in (None, "")})
