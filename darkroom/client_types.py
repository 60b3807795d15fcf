"""Writes the fields of requests into the client, which does without this package.

python -m darkroom.client_types            writes client/darkroom_client/fields.py
python -m darkroom.client_types --check    fails where that file is not what would be written
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from darkroom.family import Operation
from darkroom.registry import families
from darkroom.request.field import Field
from darkroom.request.request import Request, kind_of
from darkroom.request.training import TrainingOptions

TARGET = Path(__file__).resolve().parents[1] / "client" / "darkroom_client" / "fields.py"
_OPTIONS: Mapping[Operation, str] = {
    "generate": "GenerateOptions",
    "edit": "EditOptions",
    "upscale": "UpscaleOptions",
    "train": "TrainOptions",
}
_WITH_IMAGES: tuple[Operation, ...] = ("generate", "edit")
"""The operations whose options may be images."""
_MODEL = Field(help="Which model; a name that the service lists under /models.")
_HEAD = '''"""Fields of requests, for the types and the help of this client.

Written by `python -m darkroom.client_types`; change the fields in `darkroom/pipelines`, not this file.
"""
# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from .models import ImageInput

Format = Literal["png", "webp", "jpeg"]'''
_IMAGES = '"""The fields that hold images."""'
_DEFAULTS = '"""What the service takes for fields that a request does not name."""'


def render() -> str:
    """The text of the client's `fields.py`."""
    parts, helps, defaults = [_HEAD], {}, {}
    for operation, name in _OPTIONS.items():
        fields = _fields(operation)
        parts.append(_options(operation, name, fields))
        helps[operation] = {field: about.help for field, (_, about) in fields.items()}
        defaults[operation] = {field: kind.model_fields[field].default for field, (kind, _) in fields.items()}
    for operation in _WITH_IMAGES:
        images = tuple(name for name, (kind, _) in _fields(operation).items() if kind_of(kind, name) is bytes)
        parts.append(f"{operation.upper()}_IMAGES: tuple[str, ...] = {_literal_tuple(images)}\n{_IMAGES}")
    parts.append(f"HELP: dict[str, dict[str, str]] = {_literal(helps)}")
    known = {name: {field: v for field, v in one.items() if v is not None} for name, one in defaults.items()}
    parts.append(f"DEFAULTS: dict[str, dict[str, Any]] = {_literal(known)}\n{_DEFAULTS}")
    return "\n\n".join(parts).replace("\nclass", "\n\nclass").replace("\nGENERATE", "\n\nGENERATE") + "\n"


def _fields(operation: Operation) -> dict[str, tuple[type[Request], Field]]:
    """The fields of all families that can do it, those of the default one first, without what the call itself takes:
    the prompt, and the images to be changed or enlarged. Of a training, its options."""
    kinds = [f.request for f in sorted(families().values(), key=lambda f: f.order) if f.operation == operation]
    kinds += [TrainingOptions] if operation == "train" else []
    found: dict[str, tuple[type[Request], Field]] = {}
    for kind in kinds:
        for name, about in kind.fields().items():
            if about.rest and not about.needed and not kind.model_fields[name].is_required():
                found.setdefault(name, (kind, about))
    return found


def _options(operation: Operation, name: str, fields: Mapping[str, tuple[type[Request], Field]]) -> str:
    about_all = f'    """Fields of `{operation}`; None leaves the choice to the service.'
    lines = [f"class {name}(TypedDict, total=False):", about_all, ""]
    for field, (_, about) in fields.items():
        text = f":param {field}: {about.help}"
        lines += textwrap.wrap(text, 114, initial_indent="    ", subsequent_indent="        ")
    without_model = "model" not in fields and operation != "train"
    if without_model:
        lines.append(f"    :param model: {_MODEL.help}")
    lines += ['    """', ""]
    if without_model:
        lines.append("    model: str | None")
    lines += [f"    {field}: {_type(kind, field, about)} | None" for field, (kind, about) in fields.items()]
    return "\n".join(lines)


def _type(kind: type[Request], field: str, about: Field) -> str:
    if field == "format":
        return "Format"
    if about.json and about.texts:
        return "Sequence[str] | str"
    if about.json:
        return "Sequence[Mapping[str, Any]] | str"
    of = kind_of(kind, field)
    return "ImageInput" if of is bytes else of.__name__


def _literal_tuple(values: tuple[str, ...]) -> str:
    return "(" + ", ".join(f'"{value}"' for value in values) + ("," if len(values) == 1 else "") + ")"


def _literal(value: object, indent: str = "") -> str:
    if not isinstance(value, dict):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else repr(value)
    inner = indent + "    "
    lines = [f'{inner}"{key}": {_literal(one, inner)},' for key, one in value.items()]
    return "{\n" + "\n".join(lines) + f"\n{indent}}}"


def main() -> int:
    """The command."""
    text, there = render(), TARGET.read_text() if TARGET.exists() else ""
    if sys.argv[1:] == ["--check"]:
        if text == there:
            return 0
        print(f"{TARGET} is outdated; run: python -m darkroom.client_types", file=sys.stderr)  # noqa: T201
        return 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
