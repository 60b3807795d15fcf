"""The LoRAs of a request: which ones, and how strongly each acts at which steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from darkroom.errors import InvalidInput
from darkroom.request.fields import Bounds, number, shown
from darkroom.serving.loras import is_digest

FIELD = "loras"
WEIGHT_RANGE = (-10.0, 10.0)
SHARE_RANGE = (0.0, 1.0)
MOST_LORAS = 8
"""Maximum number of LoRAs in one request."""
MOST_WEIGHTS = 1000
"""Maximum number of entries in `weights_by_step`."""
LONGEST_NAME = 200
_REFERENCES = ("name", "session_id", "digest")


@dataclass(frozen=True, kw_only=True)
class LoraChoice:
    """One LoRA of a request. Exactly one of `name`, `session_id` and `digest` says which; beside a digest, `name` is
    only what people call it.

    :param name: in the library of this installation.
    :param session_id: of the training that made it.
    :param digest: SHA-256 of its file, 64 lower-case hexadecimal digits.
    :param weight: -10..10; its change of the weights is multiplied with it.
    :param weights_by_step: in place of `weight` in the network that predicts the noise: one for each step, or fewer
        that are spread evenly over the steps; empty for `weight` at all steps.
    :param start, end: shares of the steps (0..1) between which it acts.
    """

    name: str | None = None
    session_id: str | None = None
    digest: str | None = None
    weight: float = 1.0
    weights_by_step: tuple[float, ...] = ()
    start: float = 0.0
    end: float = 1.0

    @property
    def reference(self) -> tuple[str, str]:
        """The one of the three fields that is given, and its value."""
        return next((kind, value) for kind in reversed(_REFERENCES) if (value := getattr(self, kind)) is not None)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `parse_loras` reads: the values that differ from the defaults."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        usual = {field.name: field.default for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != usual[name]
        }


_KNOWN = tuple(field.name for field in fields(LoraChoice))


def parse_loras(value: object) -> tuple[LoraChoice, ...]:
    """Check the field `loras`.

    :param value: a list of objects, or the JSON of one, as forms have it.
    :raises InvalidInput: names the field of the LoRA, its range and what came.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _invalid(FIELD, "a JSON list of objects", value) from None
    if not isinstance(value, list | tuple):
        raise _invalid(FIELD, "a list of objects", value)
    if len(value) > MOST_LORAS:
        raise InvalidInput(f"{FIELD} must have at most {MOST_LORAS} entries; got {len(value)}.", param=FIELD)
    found = tuple(_lora(entry, f"{FIELD}[{index}]") for index, entry in enumerate(value))
    references = [lora.reference for lora in found]
    for index, (kind, named) in enumerate(references):
        if (kind, named) in references[:index]:
            raise InvalidInput(f"{FIELD} has the {kind} {shown(named)} twice.", param=f"{FIELD}[{index}].{kind}")
    return found


def _lora(entry: object, place: str) -> LoraChoice:
    """One entry.

    :param place: its name in errors: "loras[0]".
    """
    if not isinstance(entry, Mapping):
        raise _invalid(place, "an object", entry)
    given = {name: value for name, value in entry.items() if value is not None}
    if unknown := next((name for name in given if name not in _KNOWN), None):
        raise InvalidInput(f"{place} has no field {shown(unknown)}; it has {', '.join(_KNOWN)}.", param=place)
    references = [name for name in _REFERENCES if name in given]
    if len(references) != 1 and references != ["name", "digest"]:
        came = " and ".join(references) or "none of them"
        raise InvalidInput(f"{place} must have exactly one of {', '.join(_REFERENCES)}; got {came}.", param=place)
    lora = LoraChoice(
        **{kind: _reference(kind, given[kind], f"{place}.{kind}") for kind in references},
        weight=_number(given, "weight", 1.0, WEIGHT_RANGE, place),
        weights_by_step=_weights(given.get("weights_by_step", ()), f"{place}.weights_by_step"),
        start=_number(given, "start", 0.0, SHARE_RANGE, place),
        end=_number(given, "end", 1.0, SHARE_RANGE, place),
    )
    if lora.start >= lora.end:
        raise InvalidInput(
            f"{place}.start must be below end; got {lora.start:g} and {lora.end:g}.", param=f"{place}.start"
        )
    return lora


def _reference(kind: str, value: object, place: str) -> str:
    """A name, a session's id or a digest."""
    if kind == "digest":
        digest = value.strip().lower() if isinstance(value, str) else ""
        if not is_digest(digest):
            raise _invalid(place, "a SHA-256 in 64 hexadecimal digits", value)
        return digest
    if kind == "session_id":
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise _invalid(place, "the id of a session", value)
        return str(value)
    name = value.strip() if isinstance(value, str) else ""
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise _invalid(place, f"a text of 1 to {LONGEST_NAME} characters in one line", value)
    return name


def _weights(value: object, place: str) -> tuple[float, ...]:
    """Weights by step."""
    if not isinstance(value, list | tuple) or len(value) > MOST_WEIGHTS:
        raise _invalid(place, f"a list of at most {MOST_WEIGHTS} numbers", value)
    return tuple(_number({str(n): weight}, str(n), 1.0, WEIGHT_RANGE, place) for n, weight in enumerate(value))


def _number(given: Mapping[str, Any], name: str, default: float, bounds: Bounds, place: str) -> float:
    """One number of an entry, called by its place in errors."""
    full = f"{place}[{name}]" if name.isdigit() else f"{place}.{name}"
    value = given.get(name, default)
    if isinstance(value, bool | str):
        raise _invalid(full, f"a number from {bounds[0]:g} to {bounds[1]:g}", value)
    return number({full: value}, full, default, bounds)


def _invalid(place: str, wanted: str, came: object) -> InvalidInput:
    """The error for a value of the wrong kind."""
    return InvalidInput(f"{place} must be {wanted}; got {shown(came)}.", param=place)
