"""Options of commands that come from the fields of requests."""

from __future__ import annotations

from collections.abc import Callable

import click

from .cli import Command
from .fields import DEFAULTS, HELP


def field_help(name: str, operation: str = "generate") -> str:
    """What a field is for, with the service's default."""
    default = DEFAULTS[operation].get(name)
    return HELP[operation][name] + ("" if default in (None, "", -1) else f" [service: {default}]")


def in_order(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which --help shows them."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


session_option = click.option("--session", metavar="ID", help="A training session.")
