"""`darkroom playground`."""

from __future__ import annotations

import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import click

from .cli import PROBE_TIMEOUT, url_option
from .client import Client

_BESIDE = "playground"
"""The folder of the environment beside this one that has Gradio, which `./install.sh --playground` makes."""


@click.command()
@click.option("--key", metavar="KEY", envvar="DARKROOM_API_KEY", show_envvar=True, help="Key of the service.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for the network.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Port to listen on.")
@url_option
def playground(url: str, key: str | None, host: str, port: int) -> None:
    """Serve a page for trying the service out. It is made with Gradio.

    It has tabs for images of a text, images that follow another one (ControlNet: input, map, result), edits, and
    upscaling, with previews. Gradio shows an API of the page, too. The page loads nothing from the internet.

    \b
    Examples:
      darkroom playground                                    http://127.0.0.1:7860, for the service of --url
      darkroom playground --url http://gpu:8000 --port 8080
      darkroom playground --host 0.0.0.0                     for everybody in this network

    Whoever can open the page uses the service, with the key of --key. Ctrl-C stops it.
    """
    if find_spec("gradio") is None:
        _go_on_beside(url, key, host, port)
    from .playground.offer import Offer

    with Client(url, timeout=PROBE_TIMEOUT, api_key=key) as client:
        offer = Offer.of(client)
    from .playground.page import page_of, serve  # which take seconds, and are of no use without a service
    from .playground.running import Service

    try:
        address = serve(page_of(Service(url=url, key=key), offer), host=host, port=port)
    except OSError:
        raise click.ClickException(
            f"Port {port} of {host} cannot be listened on; choose another one by --port."
        ) from None
    click.echo(f"The playground is at {address} (Ctrl-C stops it)")
    threading.Event().wait()


def _go_on_beside(url: str, key: str | None, host: str, port: int) -> None:
    """Go on in the environment that has Gradio.

    :raises click.ClickException: there is none.
    """
    python = Path(sys.prefix) / _BESIDE / "bin" / "python"
    if not python.exists():
        raise click.ClickException(
            "The playground needs Gradio. Beside the service: ./install.sh --playground. On another machine, in an "
            "environment of its own: pip install 'darkroom-client[playground]'."
        )
    words = ["-m", "darkroom_client", "--url", url, "playground", "--host", host, "--port", str(port)]
    environment = dict(os.environ) | ({"DARKROOM_API_KEY": key} if key else {})
    os.execve(python, [str(python), *words], environment)
