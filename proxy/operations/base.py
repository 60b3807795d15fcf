"""The interface between tasks and operations."""

from __future__ import annotations

from typing import Any, Protocol

from darkroom.serving.networks import ModelSpec
from proxy.services import Services
from proxy.tasks.models import Output, TaskContext, Work


class Operation(Protocol):
    """A kind of work that clients can request, such as `generate`, done by one model."""

    @property
    def name(self) -> str:
        """The name under which its tasks are stored."""

    @property
    def lane(self) -> str:
        """The name of the lane in which its tasks wait; see `proxy.tasks.lanes`."""

    @property
    def pipeline(self) -> ModelSpec | None:
        """The pipeline model that does the work; None if the operation uses no model of Triton."""

    @property
    def resumable(self) -> bool:
        """Whether a run goes on with what the last one has left in the workspace, so that its tasks can be paused."""

    @property
    def longest_turn(self) -> float:
        """Seconds that a step may take alone; longer ones are divided."""

    @property
    def fallback_seconds(self) -> float:
        """Seconds per unit before any was measured."""

    @property
    def names(self) -> frozenset[str]:
        """The names of all fields that it accepts."""

    def bound(self, services: Services, fields: dict[str, Any]) -> Operation:
        """The operation with the model that a request names. The model's name is removed from `fields`.

        :raises InvalidInput, NotFound: there is no such model.
        """

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        """Validate a request. Values have the types of JSON or a form, files are bytes.

        :raises DarkroomError, RequestValidationError: the request is invalid.
        """

    async def run(self, context: TaskContext) -> list[Output]:
        """Do the work of `accept`. It is called again after a crash, and then restarts, or resumes from what it has
        left in its workspace. The outputs are in the order of the task's results.

        :raises DarkroomError: it failed.
        """
