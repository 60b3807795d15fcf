"""Files of results: what a client has already is not sent again, HEAD and ranges; and streams by what is accepted."""

from __future__ import annotations

import httpx
import pytest

from tests.contract.tasks import QUICK, finished, submit
from tests.pictures import encoded, photo

SMALL = encoded(photo(0, 0, 16, 16))


@pytest.fixture(scope="module")
def paths(service: object) -> list[str]:
    """The paths of one image."""
    with httpx.Client(base_url=service.url, timeout=120) as http:  # type: ignore[attr-defined]
        task = finished(http, submit(http)["task_id"])
    id, name = task["task_id"], task["results"][0]["name"]
    return [httpx.URL(task["result_urls"][0]).path, f"/tasks/{id}/results/{name}", f"/download/{id}"]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_image_that_is_known_is_not_sent_again(http: httpx.Client, paths: list[str], which: int) -> None:
    first = http.get(paths[which])
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    for headers in ({"if-none-match": etag}, {"if-none-match": f'"x", W/{etag}'}, {"if-modified-since": modified}):
        for method in ("GET", "HEAD"):
            answer = http.request(method, paths[which], headers=headers)
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    for headers in ({"if-none-match": '"x"'}, {"if-none-match": '"x"', "if-modified-since": modified}):
        assert http.get(paths[which], headers=headers).content == first.content


@pytest.mark.parametrize("which", [0, 1, 2])
def test_head_and_ranges_of_an_image(http: httpx.Client, paths: list[str], which: int) -> None:
    first, head = http.get(paths[which]), http.head(paths[which])
    assert (head.status_code, head.content) == (200, b"")
    same = ("x-content-type-options", "content-length", "content-type", "etag", "last-modified", "content-disposition")
    assert [head.headers[name] for name in same] == [first.headers[name] for name in same]
    part = http.get(paths[which], headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PNG")
    stale = http.get(paths[which], headers={"range": "bytes=1-3", "if-range": '"x"'})
    assert (stale.status_code, stale.content) == (200, first.content)


def test_head_of_a_stream_ends(http: httpx.Client, paths: list[str]) -> None:
    task = paths[-1].rsplit("/", 1)[1]
    answer = http.head(f"/tasks/{task}/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("accept", "upscale", "batch", "generate"),
    [
        ("text/event-stream;q=0", "image/png", "application/zip", "application/json"),
        ("text/event-stream;q=0.1, */*", "image/png", "application/zip", "application/json"),
        ("text/event-stream", "text/event-stream", "application/zip", "text/event-stream"),
        ("application/json;q=0, */*", "image/png", "application/zip", "image/png"),
        ("application/json", "image/png", "application/json", "application/json"),
        ("application/json;q=0.5, application/zip", "image/png", "application/zip", "application/json"),
        ("*/*", "image/png", "application/zip", "application/json"),
    ],
)
def test_answers_are_of_the_kind_that_is_accepted(
    http: httpx.Client, accept: str, upscale: str, batch: str, generate: str
) -> None:
    headers, data = {"accept": accept}, {"model": "animevideov3-x2"}
    answers = [
        http.post("/api/upscale", files={"file": SMALL}, data=data, headers=headers),
        http.post("/api/upscale-batch", files=[("files", SMALL)], data=data, headers=headers),
        http.post("/generate", json={k: v for k, v in QUICK.items() if k != "operation"}, headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    kinds = [answer.headers["content-type"].partition(";")[0] for answer in answers]
    assert kinds == [upscale, batch, generate]


def test_an_image_without_a_file_name_is_upscaled(http: httpx.Client) -> None:
    answer = http.post("/api/upscale", files={"file": (None, SMALL), "model": (None, "animevideov3-x2")})
    assert answer.headers["content-type"] == "image/png"
