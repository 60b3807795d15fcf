"""The files of the upscaling networks for browsers: what is listed, compression, caching, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import httpx
import pytest

from darkroom.pipelines.upscale.networks import NETWORKS
from tests.service import ROOT, Server, running_proxy

IDENTITY = {"Accept-Encoding": "identity"}
SMALL_MB = 10


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A proxy without Triton, which gives browsers networks of up to 10 MB."""
    with running_proxy(tmp_path_factory.mktemp("proxy"), upscale_browser_max_mb=SMALL_MB) as running:
        yield running


@pytest.fixture
def http(proxy: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.url, timeout=60) as client:
        yield client


def listed(http: httpx.Client) -> dict[str, dict[str, object]]:
    return {one["name"]: one for one in http.get("/upscale/networks").raise_for_status().json()["networks"]}


def test_networks_are_listed_up_to_the_size_of_the_setting(http: httpx.Client) -> None:
    sizes = {
        one.label: (ROOT / "model_repository" / one.model_name / "1" / "model.onnx").stat().st_size for one in NETWORKS
    }
    found = listed(http)
    assert set(found) == {name for name, size in sizes.items() if size <= SMALL_MB * 1024 * 1024}
    assert len(found) < len(sizes)
    assert {name: one["bytes"] for name, one in found.items()} == {name: sizes[name] for name in found}
    assert {one["tile_cpu"] for one in found.values()} == {260}


def test_a_network_is_sent_compressed_or_not_and_kept_for_ever(http: httpx.Client, proxy: Server) -> None:
    one = listed(http)["animevideov3-x4"]
    url = f"/{one['url']}"
    for _ in range(2):  # made, and made before
        packed = http.get(url).raise_for_status()
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) < len(packed.content) == one["bytes"]
        assert hashlib.sha256(packed.content).hexdigest() == one["sha256"]
    plain = http.get(url, headers=IDENTITY).raise_for_status()
    assert "content-encoding" not in plain.headers
    assert plain.content == packed.content
    assert packed.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert packed.headers["vary"] == "Accept-Encoding"
    again = http.get(url, headers={"If-None-Match": packed.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert [path.name for path in (proxy.folder / "state" / "networks").iterdir()] == [f"{url.rpartition('/')[2]}.gz"]


@pytest.mark.parametrize("name", ["x4plus.onnx", "animevideov3-x4-0000000000000000.onnx", "..%2Fsecret"])
def test_other_files_are_not_found(http: httpx.Client, name: str) -> None:
    answer = http.get(f"/upscale/networks/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
