"""A small real HTTP server on 127.0.0.1 that behaves as a test tells it to: refuses, stalls, breaks off."""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import io
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def parts(self) -> list[tuple[str, str | None, bytes]]:
        """Name, file name and content of every part of the form."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + self.body, policy=email.policy.HTTP)
        found = []
        for part in message.iter_parts():
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            found.append((str(part.get_param("name", header="content-disposition")), part.get_filename(), content))
        return found

    def fields(self) -> dict[str, str]:
        """The form's fields that are no files."""
        return {name: content.decode() for name, filename, content in self.parts() if filename is None}

    def json(self) -> Any:
        """The body, which is JSON."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    def file(self) -> bytes:
        """The content of the first file."""
        return next(content for _, filename, content in self.parts() if filename is not None)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What to send back. `body` as bytes gets a Content-Length; as pieces it is sent chunk by chunk.

    :param cut: break the connection off where the end of the body should be.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""
    cut: bool = False


Respond = Callable[[Received], Answer]


@dataclass
class Loopback:
    """The running server: where it is, what it received, and how it answers (may be replaced at any time)."""

    url: str
    respond: Respond
    received: list[Received] = field(default_factory=list)

    def posts(self) -> list[Received]:
        """The requests that asked for work."""
        return [request for request in self.received if request.method == "POST"]


@contextlib.contextmanager
def loopback(respond: Respond, port: int = 0) -> Iterator[Loopback]:
    """Serve on `port` (any free one by default) until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Received(method=self.command, path=self.path, headers=headers, body=body)
            here.received.append(request)
            try:
                self._send(here.respond(request))
            except ConnectionError:  # the client left, as some tests make it do
                self.close_connection = True

        do_POST = do_DELETE = do_GET  # noqa: N815

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if isinstance(answer.body, bytes):
                self.send_header("Content-Length", str(len(answer.body) + answer.cut))
                self.end_headers()
                self.wfile.write(answer.body)
            else:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in answer.body:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                if not answer.cut:
                    self.wfile.write(b"0\r\n\r\n")
            self.close_connection = self.close_connection or answer.cut

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    here = Loopback(url=f"http://127.0.0.1:{server.server_address[1]}", respond=respond)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def in_turn(*answers: Answer) -> Respond:
    """The first answer to the first request and so on; the last one for all that follow."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def as_json(content: object, status: int = 200, **headers: str) -> Answer:
    """A JSON answer."""
    return Answer(
        status=status, headers={"Content-Type": "application/json", **headers}, body=json.dumps(content).encode()
    )


def failure(status: int, code: str, message: str, param: str | None = None, **headers: str) -> Answer:
    """An error as the service words it."""
    error = {"code": code, "message": message, "param": param}
    return as_json({"detail": message, "error": error}, status, **headers)


def picture(content: bytes, media_type: str = "image/png") -> Answer:
    """The answer of `POST /api/upscale`."""
    headers = {
        "Content-Type": media_type,
        "X-Request-ID": "request-1",
        "X-Upscale-Model": "x4plus",
        "X-Upscale-Scale": "4",
    }
    return Answer(headers=headers, body=content)


def events(*pieces: bytes, cut: bool = False) -> Answer:
    """An event stream of these pieces."""
    headers = {"Content-Type": "text/event-stream", "X-Request-ID": "request-1"}
    return Answer(headers=headers, body=pieces, cut=cut)


def event(name: str, content: object) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()


def data_url(content: bytes, media_type: str = "image/png") -> str:
    """Content as the service puts it into JSON."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def drawing(seed: int, *, format: str = "png", parameters: Mapping[str, object] | None = None) -> bytes:
    """A picture in the colour of its seed; a PNG tells its parameters as the service writes them."""
    image = Image.new("RGB", (8, 6), (seed % 256, seed // 256 % 256, 0))
    texts = PngInfo()
    texts.add_text("darkroom", json.dumps({**(parameters or {}), "seed": seed}))
    target = io.BytesIO()
    image.save(target, format, **({"pnginfo": texts} if format == "png" else {}))
    return target.getvalue()


CONTROL_PARAMETERS = {
    "control_type": "canny",
    "low_threshold": 100,
    "high_threshold": 200,
    "controlnet_conditioning_scale": 1.0,
    "control_guidance_start": 0.0,
    "control_guidance_end": 1.0,
}


def generation(
    request: Received, *, steps: int = 4, previews: bool = False, pause: float = 0, default_steps: int = 20
) -> Answer:
    """The answer of `POST /generate`, streamed if the request asks for that, as a service would give it.

    :param steps: what it takes for the default, and how many events of progress there are.
    :param previews: send one after every step, if the request wants any.
    :param pause: seconds that each step takes.
    :param default_steps: what it records where nothing is said.
    """
    body = request.json()
    format, control = body.get("format", "png"), body.get("control_image")
    seeds = [body.get("seed", 7) + k for k in range(body.get("num_images", 1))]
    parameters = {
        "negative_prompt": "",
        "steps": default_steps,
        "guidance_scale": 7.5,
        **(CONTROL_PARAMETERS if control else {}),
        **{name: value for name, value in body.items() if name not in ("control_image", "preview_every")},
    }
    pictures = [drawing(seed, format=format, parameters=parameters) for seed in seeds]
    images = [data_url(picture, f"image/{format}") for picture in pictures]
    done = {
        "success": True,
        "seed": seeds[0],
        "seeds": seeds,
        "parameters": parameters,
        "width": 8,
        "height": 6,
        "media_type": f"image/{format}",
    }
    edges = {"control_map": data_url(b"edges of " + base64.b64decode(control))} if control else {}
    if request.headers["accept"] != "text/event-stream":
        time.sleep(pause * steps)
        return as_json({**done, "images": images, **edges}, **{"X-Request-ID": "request-1"})

    def pieces() -> Iterator[bytes]:
        if edges:
            yield event("control", edges)
        for step in range(1, steps + 1):
            time.sleep(pause)
            yield event("progress", {"done": step, "total": steps})
            if previews and body.get("preview_every"):
                yield event("preview", {"image": data_url(b"state %d" % step), "done": step, "total": steps})
        for index in reversed(range(len(seeds))):  # clients must not rely on their order
            yield event("image", {"index": index, "image": images[index], "seed": seeds[index]})
        yield event("done", done)

    return Answer(headers=events().headers, body=pieces())


IMAGE_EVENT = {
    "image": "data:image/webp;base64," + base64.b64encode(b"large").decode(),
    "media_type": "image/webp",
    "model": "x4plus",
    "scale": 2.5,
}

HEALTHY = as_json({"status": "healthy", "model_loaded": True, "device": {"type": "cpu", "name": "Some CPU"}})


def upscaler(request: Received) -> Answer:
    """A service whose result is the input with "large " before it, and that cannot read "bad"."""
    if request.method == "GET":
        return HEALTHY
    content = request.file()
    if content == b"bad":
        return failure(415, "not_an_image", "file: not an image.", "file")
    return picture(b"large " + content)


def studio(request: Received) -> Answer:
    """A service that is healthy, and paints what it is asked for."""
    return HEALTHY if request.method == "GET" else generation(request)


def sent(server: Loopback) -> list[dict[str, Any]]:
    """The bodies of the requests that created something."""
    return [request.json() for request in server.posts()]


def seeds(server: Loopback) -> list[tuple[int, int]]:
    """First seed and number of pictures of each request."""
    return sorted((body["seed"], body["num_images"]) for body in sent(server))
