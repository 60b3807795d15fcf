"""What a task emits while it runs, for those who watch it in this process."""

from __future__ import annotations

import asyncio

from proxy.waiting import at_most


class Live:
    """The latest step and preview of a task; `changes` goes up with each, and when its state changes.

    :ivar steps: 0 before the first step.
    :ivar preview: a PNG, and None before the first one.
    """

    def __init__(self) -> None:
        self.step = 0
        self.steps = 0
        self.preview: bytes | None = None
        self.previews = 0
        self.changes = 0
        self._changed = asyncio.Event()

    def emit(self, step: int, steps: int, preview: bytes | None = None) -> None:
        """Take in what the operation says; see `models.Emit`."""
        self.step, self.steps = step, steps
        if preview is not None:
            self.preview = preview
            self.previews += 1
        self.touch()

    def reset(self) -> None:
        """The task is restarted."""
        self.step = self.steps = 0
        self.touch()

    def touch(self) -> None:
        """Wake up who waits."""
        self.changes += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Return at the next change, or after so long."""
        try:
            await at_most(seconds, self._changed.wait())
        except asyncio.TimeoutError:
            return
