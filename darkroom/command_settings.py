"""The settings, for commands."""

from __future__ import annotations

import click
from pydantic import ValidationError

from darkroom.settings import SECRETS, Settings


def command_settings() -> Settings:
    """Read the settings.

    :raises click.ClickException: one of them is wrong; the message names it, and its value unless that is a secret.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        message = first["msg"].removeprefix("Value error, ")
        came = "" if name in SECRETS or "; got " in message else f"; got {first['input']!r}"
        raise click.ClickException(f"The setting {name} is wrong: {message}{came}.") from None
