"""One way to call both Python clients, so that every test of the one is a test of the other, and the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Protocol

from click.testing import CliRunner, Result
from darkroom_client import AsyncClient, Client
from darkroom_client.cli import main
from PIL import Image


class Call(Protocol):
    """Calls one method of a new client."""

    def __call__(
        self, url: str, method: str, *args: Any, retries: int = 0, timeout: float = 20, **kwargs: Any
    ) -> Any: ...


def _call_sync(url: str, method: str, *args: Any, retries: int = 0, timeout: float = 20, **kwargs: Any) -> Any:
    with Client(url, retries=retries, timeout=timeout) as client:
        return getattr(client, method)(*args, **kwargs)


def _call_async(url: str, method: str, *args: Any, retries: int = 0, timeout: float = 20, **kwargs: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, retries=retries, timeout=timeout) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(run())


CALLS: dict[str, Call] = {"sync": _call_sync, "async": _call_async}


def darkroom(url: str, *words: str, stdin: bytes | str | None = None) -> Result:
    """Run the command `darkroom` in this process, against the service at `url`."""
    return CliRunner().invoke(main, ["--url", url, *words], input=stdin)


def names(folder: Path) -> set[str]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def generate(url: str, *words: str, stdin: bytes | str | None = None) -> Result:
    """Run `darkroom generate` in this process."""
    return darkroom(url, "generate", *words, stdin=stdin)


def colour(path: Path) -> Any:
    """The colour of the first pixel, which in images of the loopback server is the seed."""
    with Image.open(path) as image:
        return image.getpixel((0, 0))
