"""The progress of a running task, for clients that follow it in this process."""

from __future__ import annotations

import asyncio

from proxy.waiting import at_most


class Live:
    """The latest step and preview of a task. `changes` counts steps, previews and changes of the state.

    :ivar steps: the total number of steps; 0 before the first step.
    :ivar preview: the latest preview as PNG; None before the first one.
    """

    def __init__(self) -> None:
        self.step = 0
        self.steps = 0
        self.preview: bytes | None = None
        self.previews = 0
        self.changes = 0
        self._changed = asyncio.Event()

    def emit(self, step: int, steps: int, preview: bytes | None = None) -> None:
        """Record the progress that the operation emits; see `models.Emit`."""
        self.step, self.steps = step, steps
        if preview is not None:
            self.preview = preview
            self.previews += 1
        self.touch()

    def reset(self) -> None:
        """Forget the progress, because the task is restarted."""
        self.step = self.steps = 0
        self.touch()

    def touch(self) -> None:
        """Wake the waiting coroutines."""
        self.changes += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Return at the next change, or after that many seconds."""
        try:
            await at_most(seconds, self._changed.wait())
        except asyncio.TimeoutError:
            return
