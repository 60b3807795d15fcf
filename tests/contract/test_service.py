"""Health, information, errors, limits and headers."""

from __future__ import annotations

import httpx
import pytest

from tests.pictures import encoded, photo
from tests.service import RunningService

SMALL = encoded(photo(200, 60, 16, 16))


def test_health(http: httpx.Client) -> None:
    answer = http.get("/health")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["version"], body["pipeline_ready"]) == ("healthy", "1.0.0", True)
    assert {"queue_length", "active_tasks", "total_tasks"} <= body.keys()


def test_api_health(http: httpx.Client) -> None:
    body = http.get("/api/health").json()
    assert (body["status"], body["model_loaded"]) == ("healthy", True)
    assert body["device"]["type"] in ("cpu", "cuda")
    assert body["device"]["name"]


def test_api_info(http: httpx.Client) -> None:
    body = http.get("/api/info").json()
    scales = {model["name"]: model["scales"] for model in body["models"]}
    assert scales == {"x4plus": [4], "x4plus-anime": [4], "animevideov3": [2, 3, 4]}
    assert (body["tile"], body["tile_pad"], body["precision"]) == (400, 10, "fp32")
    assert all(network["provider"].endswith("ExecutionProvider") for network in body["networks"])
    assert body["limits"]["max_batch_files"] == 5


def test_documentation(http: httpx.Client) -> None:
    assert "swagger" in http.get("/docs").text
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/health", "/api/health", "/api/info", "/api/upscale", "/api/upscale-batch"} <= paths.keys()


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"scale": "9"}, "scale", ["8", "9"]),
        ({"scale": "nan"}, "scale", ["scale", "nan"]),
        ({"scale": "big"}, "scale", ["number", "big"]),
        ({"tile": "31"}, "tile", ["32", "4096", "31"]),
        ({"tile": "1.5"}, "tile", ["integer", "1.5"]),
        ({"tile_pad": "-1"}, "tile_pad", ["0", "-1"]),
        ({"model": "../x"}, "model", ["x4plus", "../x"]),
        ({"format": "gif"}, "format", ["png", "gif"]),
        ({"quality": "0", "format": "jpeg"}, "quality", ["1", "0"]),
    ],
)
def test_bad_fields_are_named_with_range_and_value(
    http: httpx.Client, fields: dict[str, str], param: str, words: list[str]
) -> None:
    answer = http.post("/api/upscale", files={"file": SMALL}, data=fields)
    assert answer.status_code == 422
    body = answer.json()
    assert body["error"]["param"] == param
    assert body["detail"] == body["error"]["message"]
    assert all(word in body["detail"] for word in words), body["detail"]


def test_missing_file(http: httpx.Client) -> None:
    answer = http.post("/api/upscale", data={"scale": "2"})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "file"


def test_file_as_text_field(http: httpx.Client) -> None:
    assert http.post("/api/upscale", data={"file": "not an upload"}).status_code == 422


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/api/upscale", 405)])
def test_errors_of_the_framework_have_our_shape(http: httpx.Client, method: str, path: str, status: int) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == answer.json()["detail"]


def test_too_many_files(http: httpx.Client) -> None:
    answer = http.post("/api/upscale-batch", files=[("files", SMALL)] * 6)
    assert answer.status_code == 413
    assert "at most 5" in answer.json()["detail"]


@pytest.mark.parametrize("chunked", [False, True])
def test_body_limit(http: httpx.Client, chunked: bool) -> None:
    def parts() -> object:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        for _ in range(24):
            yield bytes(1 << 20)
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    body = parts() if chunked else b"".join(parts())  # type: ignore[call-overload, attr-defined]
    answer = http.post("/api/upscale", content=body, headers=headers)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"


def test_request_ids(http: httpx.Client, service: RunningService) -> None:
    answer = http.get("/api/info", headers={"x-request-id": "abc-123"})
    assert answer.headers["x-request-id"] == "abc-123"
    service.wait_for_log("[abc-123] GET /api/info 200", timeout=5)
    made = http.get("/health", headers={"x-request-id": "bad id\t!"}).headers["x-request-id"]
    assert len(made) == 32


def test_cors_for_configured_origins_only(http: httpx.Client) -> None:
    ours, other = (http.get("/health", headers={"origin": f"http://{name}.example"}) for name in ("shop", "evil"))
    assert ours.headers["access-control-allow-origin"] == "http://shop.example"
    assert "access-control-allow-origin" not in other.headers


def test_the_proxy_has_no_torch(service: RunningService) -> None:
    (proxy,) = service.find("-m proxy")
    assert not [m.path for m in proxy.memory_maps() if "torch" in m.path or "onnxruntime" in m.path]
