"""The start options that model families bring: `options.py` of a family has `options`, `settings` and `EPILOG`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from darkroom import pipelines

Command = TypeVar("Command", bound=Callable[..., Any])


def family_options(command: Command) -> Command:
    """Add the options of every family to a click command."""
    for module in reversed(_modules()):
        command = module.options(command)
    return command


def family_epilog() -> str:
    """Return the families' texts about their options, with examples: the end of the command's help."""
    return "\n\n".join(module.EPILOG for module in _modules())


def family_settings(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables that the given options set; empty if no option was given.

    :param options: as click gives them, by name.
    :raises click.BadParameter, click.UsageError: an invalid value, or options that contradict each other.
    """
    return {name: value for module in _modules() for name, value in module.settings(options).items()}


def _modules() -> list[ModuleType]:
    names = [f"{pipelines.__name__}.{family}.options" for family in pipelines.family_names()]
    return [importlib.import_module(name) for name in names if importlib.util.find_spec(name) is not None]
