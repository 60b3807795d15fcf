"""What tasks can do: one file for each operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from darkroom.errors import InvalidInput
from proxy.services import Services
from proxy.tasks.models import Output, Tell, Work
from proxy.tasks.operations.generate import Generate
from proxy.tasks.operations.upscale import Upscale


class Operation(Protocol):
    """One kind of task."""

    name: str
    fallback_seconds: float
    """Seconds per unit before any was measured."""

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        """Validate a request: values as JSON or a form has them, files as bytes.

        :raises DarkroomError, RequestValidationError: it is refused.
        """
        ...

    async def run(
        self, services: Services, fields: Mapping[str, Any], files: Mapping[str, bytes], tell: Tell
    ) -> list[Output]:
        """Do the work of `accept`. May be called again after a crash, and then begins anew.

        :raises DarkroomError: it failed.
        """
        ...


_ALL: tuple[Operation, ...] = (Generate(), Upscale())
OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _ALL}


def operation_named(name: object, param: str = "operation") -> Operation:
    """:raises InvalidInput: there is none of that name."""
    operation = OPERATIONS.get(name) if isinstance(name, str) else None
    if operation is None:
        came = "nothing" if name is None else repr(name)[:80]
        raise InvalidInput(f"{param} must be one of {', '.join(OPERATIONS)}; got {came}.", param=param)
    return operation
