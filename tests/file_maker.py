"""An operation that makes a file of any type and resumes from its workspace; and a program that dies on the way.

python -m tests.file_maker FOLDER    begins a task there, prints its id, and waits after its third step
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from proxy import operations
from proxy.tasks.models import Output, TaskContext, Work
from tests.runner_bench import Scripted
from tests.tasks_part import part

STEPS = 6


class FileMaker(Scripted):
    """Each step adds a letter to `progress` in the workspace; the result is the file that they make.

    :ivar resumed: how many letters each run has found.
    :ivar pause_at: the step before which a run waits for `go_on`.
    """

    name = "file_maker"

    def __init__(self, pause_at: int = STEPS) -> None:
        super().__init__(self._make)
        self.resumed: list[int] = []
        self.pause_at = pause_at
        self.paused = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()
        self.error: BaseException | None = None

    async def _make(self, context: TaskContext) -> list[Output]:
        progress = context.workspace / "progress"
        done = progress.read_text() if progress.exists() else ""
        self.resumed.append(len(done))
        while len(done) < STEPS:
            if len(done) == self.pause_at and not self.go_on.is_set():
                self.paused.release()
                if self.error is not None:
                    error, self.error = self.error, None
                    raise error
                await self.go_on.wait()
            done += "abcdef"[len(done)]
            written = context.workspace / "progress.new"
            written.write_text(done)
            written.replace(progress)
            context.emit(len(done), STEPS, None)
        return [self.output(context, progress)]

    def output(self, context: TaskContext, made: Path) -> Output:
        fields = context.fields
        return Output(data=made, media_type=fields["media_type"], name=fields.get("filename"), details={"step": STEPS})


def work(name: str = "made", media_type: str = "application/octet-stream", **more: Any) -> Work:
    """What `FileMaker` makes a file of."""
    return Work(fields={"name": name, "media_type": media_type, **more}, steps=STEPS, kind="k", units=1)


async def die(folder: Path) -> None:
    maker = FileMaker(pause_at=3)
    operations.OPERATIONS[maker.name] = maker
    async with part(folder, None, maker) as made:
        task = await made.submit_work(work())
        await maker.paused.acquire()
        os.write(1, f"{task.id}\n".encode())
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(die(Path(sys.argv[1])))
