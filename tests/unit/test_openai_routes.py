"""OpenAI's own client against the app in this process: what needs no model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from benchmarks.processes import free_port
from darkroom.settings import Settings
from proxy.app import create_app
from proxy.gate import Gate
from proxy.gateway import Gateway
from proxy.keys.middleware import Keys
from proxy.openai.published import KEPT_SECONDS
from proxy.openai.state import OpenaiState
from proxy.readiness import Monitor
from proxy.services import Services
from proxy.tasks.database import connect
from proxy.tasks.store import Store
from tests.service import ROOT


class Local:
    """The app without Triton, and OpenAI's client of it."""

    def __init__(self, data: Path) -> None:
        settings = Settings(_env_file=None, model_repository=ROOT / "model_repository", data_dir=data)
        self.app = create_app(settings)
        self.gateway = Gateway("127.0.0.1:1")
        monitor = Monitor(self.gateway, {}, metrics_url="http://127.0.0.1:1", interval=60, timeout=1)
        gate = Gate(capacity=1, queue_size=1)
        self.app.state.services = Services(settings=settings, gateway=self.gateway, monitor=monitor, gate=gate)
        self.app.state.openai = self.state = OpenaiState(settings)
        self.store = Store(connect(settings.database))
        self.store.create()
        self.app.state.keys = Keys(self.store)
        self.http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self.app), base_url="http://images.example:8443"
        )
        self.client = AsyncOpenAI(
            base_url="http://images.example:8443/v1", api_key="any", max_retries=0, http_client=self.http
        )


def locally(data: Path, work: Callable[[Local], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        local = Local(data)
        try:
            return await work(local)
        finally:
            await local.client.close()
            await local.gateway.close()
            local.store.close()

    return asyncio.run(run())


def test_models_are_listed_and_found(tmp_path: Path) -> None:
    async def work(local: Local) -> None:
        names = [model.id async for model in local.client.models.list()]
        assert "sd15" in names
        assert not {"upscale", "default"} & set(names)
        for name in (*names, "gpt-image-1", "dall-e-3"):
            model = await local.client.models.retrieve(name)
            assert (model.id, model.object, model.owned_by) == (name, "model", "darkroom")
            assert model.created > 1_600_000_000
        for name in ("gpt-5", "upscale"):
            with pytest.raises(openai.NotFoundError) as refused:
                await local.client.models.retrieve(name)
            assert (refused.value.code, refused.value.param) == ("model_not_found", "model")

    locally(tmp_path, work)


def test_service_without_its_models_is_an_error_of_the_server(tmp_path: Path) -> None:
    async def work(local: Local) -> None:
        with pytest.raises(openai.InternalServerError) as refused:
            await local.client.images.generate(prompt="a cat", size="auto")
        error = refused.value
        assert (error.status_code, error.type, error.code) == (503, "server_error", "not_ready")
        assert int(error.response.headers["retry-after"]) >= 1
        assert error.request_id

    locally(tmp_path, work)


@pytest.mark.parametrize(
    ("fields", "kind", "param", "code"),
    [
        ({"n": 0}, openai.BadRequestError, "n", "invalid_input"),
        ({"model": "gpt-5"}, openai.NotFoundError, "model", "model_not_found"),
        ({"size": "wide"}, openai.BadRequestError, "size", "invalid_input"),
        ({"extra_body": {"steps": "many"}}, openai.BadRequestError, "steps", "invalid_input"),
        ({"stream": True, "partial_images": 9}, openai.BadRequestError, "partial_images", "invalid_input"),
    ],
)
def test_bad_request_raises_the_clients_error(
    tmp_path: Path, fields: dict[str, Any], kind: type[openai.APIStatusError], param: str, code: str
) -> None:
    async def work(local: Local) -> None:
        with pytest.raises(kind) as refused:
            await local.client.images.generate(**{"prompt": "a cat", "size": "auto", **fields})
        error = refused.value
        assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
        body = error.response.json()
        assert body.keys() == {"error"}
        assert body["error"].keys() == {"message", "type", "param", "code"}

    locally(tmp_path, work)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of create_variation
def test_file_that_is_no_image_is_a_bad_request(tmp_path: Path) -> None:
    async def work(local: Local) -> None:
        for endpoint in (local.client.images.edit, local.client.images.create_variation):
            more = {"prompt": "a cat"} if endpoint == local.client.images.edit else {}
            with pytest.raises(openai.BadRequestError) as refused:
                await endpoint(image=("image.png", b"no image", "image/png"), **more)  # type: ignore[operator]
            assert (refused.value.param, refused.value.code) == ("image", "not_an_image")

    locally(tmp_path, work)


def test_request_that_reaches_nothing(tmp_path: Path) -> None:
    async def work(local: Local) -> None:
        for path, status in (("/v1/images/nothing", 404), ("/v1/images/generations", 405)):
            answer = await local.http.get(path)
            assert (answer.status_code, list(answer.json())) == (status, ["error"])
        answer = await local.http.post("/v1/images/generations", content=b"{", headers={"content-type": "text/plain"})
        assert (answer.status_code, list(answer.json())) == (415, ["error"])
        async with AsyncOpenAI(base_url=f"http://127.0.0.1:{free_port()}/v1", api_key="any", max_retries=0) as gone:
            with pytest.raises(openai.APIConnectionError):
                await gone.images.generate(prompt="a cat")

    locally(tmp_path, work)


def test_image_behind_a_url(tmp_path: Path) -> None:
    async def work(local: Local) -> None:
        name = await asyncio.to_thread(local.state.published.put, b"RIFF", "webp")
        answer = await local.http.get(f"/v1/images/files/{name}")
        assert (answer.status_code, answer.content) == (200, b"RIFF")
        assert answer.headers["content-type"] == "image/webp"
        other = "A" + name[1:] if name[0] != "A" else "B" + name[1:]
        gone = await local.http.get(f"/v1/images/files/{other}")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
        local.state.published._clock = lambda: 4_000_000_000 + KEPT_SECONDS
        expired = await local.http.get(f"/v1/images/files/{name}")
        assert (expired.status_code, expired.json()["error"]["code"]) == (410, "gone")

    locally(tmp_path, work)


def test_idempotency_key_has_to_be_one(tmp_path: Path) -> None:
    async def work(local: Local) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await local.client.images.generate(prompt="a cat", extra_headers={"Idempotency-Key": "two words"})
        assert refused.value.param == "Idempotency-Key"

    locally(tmp_path, work)
