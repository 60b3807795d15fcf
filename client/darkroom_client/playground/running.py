"""One request to the service, followed on the page: steps, previews, result, and what went wrong."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import gradio as gr
from gradio.events import Dependency

from ..cli import describe
from ..client import AsyncClient
from ..errors import DarkroomError
from ..models import Preview, Progress

Result = TypeVar("Result")
Heard = Callable[[Progress | Preview], None]
SOURCES = ["upload", "clipboard"]
"""Where images come from; a camera would be a further one."""
PREVIEWS = 8
"""How many previews an image has at most."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """Where the service is, and the key that it may want."""

    url: str
    key: str | None

    def client(self) -> AsyncClient:
        return AsyncClient(self.url, api_key=self.key)


@dataclass(frozen=True)
class Done(Generic[Result]):
    """The result, which is the last thing that is heard of a request."""

    result: Result


async def followed(work: Callable[[Heard], Awaitable[Result]]) -> AsyncIterator[Progress | Preview | Done[Result]]:
    """Do some work, and give what it says of its progress as it comes.

    Who closes this generator, as the button Stop does, cancels the work; the service stops within one step.

    :param work: gets a function that takes progress and previews.
    :raises gr.Error: the service refused it, or it failed there; the message is for a person.
    """
    heard: asyncio.Queue[Progress | Preview | None] = asyncio.Queue()
    task = asyncio.ensure_future(work(heard.put_nowait))
    task.add_done_callback(lambda _: heard.put_nowait(None))
    try:
        while (said := await heard.get()) is not None:
            yield said
        yield Done(task.result())
    except (DarkroomError, OSError) as error:
        raise gr.Error(describe(error), print_exception=False, duration=None) from error
    finally:
        task.cancel()


def stopped_by(stop: gr.Button, running: Dependency, stage: gr.components.Component) -> None:
    """Let a button stop what runs, and say so once it has: a last step may be heard of until then."""
    stop.click(None, cancels=[running]).then(lambda: "Stopped", None, stage, api_visibility="private")


def preview_every(steps: float) -> int:
    """Steps between two previews."""
    return max(1, ceil(steps / PREVIEWS))


def stage_of(progress: Progress | Preview, what: str = "Step") -> str:
    """How far a request is, in words."""
    return f"{what} {progress.done} of {progress.total}"


class Shown:
    """Encoded images as files that Gradio can take; it makes copies of its own, and these are deleted at the end.

    Files keep what an image says of how it was made, which Pillow's images would lose.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="darkroom-playground-")

    def __enter__(self) -> Shown:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def file(self, image: bytes, media_type: str = "image/png", name: str | None = None) -> str:
        """Write an image; returns the path.

        :param name: of the file that people download, without its ending. By default a hash of the image.
        """
        ending = media_type.rpartition("/")[2]
        path = Path(self._folder.name) / f"{name or sha256(image).hexdigest()[:16]}.{ending}"
        path.write_bytes(image)
        return str(path)


def named(function: Callable[..., Any], names: Sequence[str], **defaults: Any) -> Callable[..., Any]:
    """Name the parameters of a function that takes any number of values: Gradio's API has these names.

    :param defaults: None for those that are not here.
    """
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, default=defaults.get(name)) for name in names]
    vars(function)["__signature__"] = inspect.Signature(parameters)
    return function


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are filled in; the service decides about the others."""
    return {name: value for name, value in fields.items() if value not in (None, "")}
