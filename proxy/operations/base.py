"""What an operation is to the tasks."""

from __future__ import annotations

from typing import Any, Protocol

from darkroom.serving.networks import ModelSpec
from proxy.services import Services
from proxy.tasks.models import Output, TaskContext, Work


class Operation(Protocol):
    """What can be asked for, done by one model."""

    @property
    def name(self) -> str:
        """Under which tasks of it are kept."""

    @property
    def lane(self) -> str:
        """The tasks that it waits with; see `proxy.tasks.lanes`."""

    @property
    def pipeline(self) -> ModelSpec | None:
        """The model that does the work; None where no model of Triton's does."""

    @property
    def longest_turn(self) -> float:
        """Seconds that a step may take alone; longer ones are divided."""

    @property
    def fallback_seconds(self) -> float:
        """Seconds per unit before any was measured."""

    @property
    def names(self) -> frozenset[str]:
        """Every field that it takes."""

    def bound(self, services: Services, fields: dict[str, Any]) -> Operation:
        """The operation by the model that a request names; its name is taken out of `fields`.

        :raises InvalidInput, NotFound: there is no such model.
        """

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        """Validate a request: values as JSON or a form has them, files as bytes.

        :raises DarkroomError, RequestValidationError: it is refused.
        """

    async def run(self, context: TaskContext) -> list[Output]:
        """Do the work of `accept`. It is called again after a crash, and then restarts, or resumes from what it has
        left in its workspace. The outputs are in the order of the task's results.

        :raises DarkroomError: it failed.
        """
