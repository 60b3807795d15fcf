"""Conditions of rules in CEL, the Common Expression Language (https://cel.dev), with its types checked when they are
read."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

log = logging.getLogger(__name__)

VARIABLES: Mapping[str, Any] = {
    "prompt": "a cat",
    "negative_prompt": "blurry",
    "operation": "generate",
    "model": "a-model",
    "surface": "native",
    "width": 512,
    "height": 512,
    "steps": 20,
    "num_images": 1,
    "scale": 1.0,
    "checks_images": True,
    "key_id": "k1",
    "key_name": "Ann",
    "role": "user",
    "found": ["a list"],
    "words": {"a list": ["a word"]},
}
"""What conditions can use, with values such as requests have; a new condition is tried with them."""
_PLACE = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_CODE = re.compile(r"^[A-Z_]+: ")


class ConditionError(ValueError):
    """A condition is no valid CEL, uses unknown names or wrong types, or is neither true nor false.

    :param line: in the condition, from 1.
    """

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


class Values:
    """What the variables are, converted once for all conditions."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.activation = _environment().Activation(dict(variables))


class Condition:
    """A condition, ready to be evaluated.

    :param lists: the names of all lists of words, which `words` has.
    :raises ConditionError: it is not valid.
    """

    def __init__(self, text: str, lists: Iterable[str] = ()) -> None:
        self.text = text
        try:
            self._compiled = _environment().compile(text)
        except RuntimeError as error:
            raise _problem(str(error)) from None
        kind = self._compiled.return_type().name()
        if kind != "BOOL":
            raise ConditionError(f"must be true or false, and is of the type {kind}")
        tried = {**VARIABLES, "words": {name: ["a word"] for name in lists}}
        if problem := self._evaluated(Values(tried))[1]:  # a bad regular expression, for example
            raise ConditionError(problem)

    def holds(self, values: Values, *, otherwise: bool) -> bool:
        """Whether the condition is true.

        :param otherwise: the answer where it cannot be evaluated, as with a division by zero.
        """
        result, problem = self._evaluated(values)
        if problem:
            log.warning("the condition %r cannot be evaluated: %s", self.text, problem)
            return otherwise
        return result

    def _evaluated(self, values: Values) -> tuple[bool, str]:
        """The result, and what is wrong, or an empty text."""
        found = self._compiled.eval(values.activation)
        if found.type().name() != "BOOL":
            return False, _CODE.sub("", str(found.value()))
        return bool(found.value()), ""


def _problem(message: str) -> ConditionError:
    place = _PLACE.search(message)
    if place is None:
        return ConditionError(message)
    what = place[3].replace(" (in container '')", "")
    return ConditionError(f"{what} at character {place[2]}", int(place[1]))


@cache
def _environment() -> Any:
    if sys.version_info < (3, 11):
        raise ConditionError("conditions need Python 3.11 or later; leave `when` out")
    from cel_expr_python import cel  # 14 MB, which a policy without conditions does not need

    texts = cel.Type.List(cel.Type.STRING)
    kinds = {
        bool: cel.Type.BOOL,
        str: cel.Type.STRING,
        int: cel.Type.INT,
        float: cel.Type.DOUBLE,
        list: texts,
        dict: cel.Type.Map(cel.Type.STRING, texts),
    }
    return cel.NewEnv(variables={name: kinds[type(value)] for name, value in VARIABLES.items()})
