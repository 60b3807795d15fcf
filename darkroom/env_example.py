"""`python -m darkroom.env_example`: writes `.env.example` from the settings of the service and of the families."""

from __future__ import annotations

import difflib
import inspect
import textwrap
from collections.abc import Mapping
from pathlib import Path

import click
from pydantic.fields import FieldInfo

from darkroom.family_settings import as_text, settings_classes
from darkroom.files import write_atomically
from darkroom.home import CODE, ROOT
from darkroom.settings import SECTIONS, Settings

_FILE = CODE / ".env.example"
_WIDTH = 118
_INTRODUCTION = """\
# Settings of Darkroom. Copy to .env and change what you need; variables of the environment go before this file.
# Every line shows its default.
#
# Written by `python -m darkroom.env_example`; edit the descriptions in darkroom/settings.py and in settings.py of the
# families, not this file.
"""


def render() -> str:
    """The whole file: the service's own sections, then one for each family of this checkout."""
    text = _INTRODUCTION
    # Those of a base class come last, where pydantic has them first.
    fields_of_service = sorted(Settings.model_fields.items(), key=lambda item: item[0] not in Settings.__annotations__)
    for name, field in fields_of_service:
        if name in SECTIONS:
            text += _heading(SECTIONS[name])
        text += _lines(name.upper(), field)
    for family in settings_classes().values():
        if Path(inspect.getfile(family)).is_relative_to(CODE / "darkroom"):
            text += _heading(family.title)
            fields: Mapping[str, FieldInfo] = family.model_fields
            text += "".join(_lines(family.variable(name), field) for name, field in fields.items())
    return text


def _heading(title: str) -> str:
    return f"\n# --- {title} ".ljust(_WIDTH, "-") + "\n"


def _lines(variable: str, field: FieldInfo) -> str:
    if not field.description:
        raise ValueError(f"the setting {variable} needs a description")
    # The machine decides about a default that is computed.
    default = "" if field.default_factory is not None else _default(field.default)
    comment = textwrap.fill(
        field.description, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
    return f"{comment}\n{variable}={default}\n"


def _default(value: object) -> str:
    if isinstance(value, Path):
        return str(value.relative_to(ROOT))
    return "" if value is None else as_text(value)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail where the file differs, and show how.")
def main(check: bool) -> None:
    """Write .env.example from the settings.

    \b
    Examples:
      python -m darkroom.env_example
      python -m darkroom.env_example --check
    """
    text, there = render(), _FILE.read_text() if _FILE.is_file() else ""
    if not check:
        write_atomically(_FILE, text.encode())
    elif there != text:
        lines = there.splitlines(), text.splitlines()
        click.echo("\n".join(difflib.unified_diff(*lines, ".env.example", "the settings", lineterm="")))
        raise click.ClickException(".env.example differs from the settings; run: python -m darkroom.env_example")


if __name__ == "__main__":
    main()
