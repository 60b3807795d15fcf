"""The page Status of a proxy with several inference servers: each is listed with its state."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import obstacles, visitor
from tests.contract.studio import opened
from tests.protocol_server import Servers, running_servers
from tests.service import Server, running_proxy


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with running_servers(2) as made:
        yield made


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Server]:
    grpc, metrics = (",".join(column) for column in zip(*servers.entries, strict=True))
    folder = tmp_path_factory.mktemp("proxy")
    with running_proxy(folder, triton_grpc=grpc, triton_metrics=metrics, canary_interval=3600) as made:
        yield made


@pytest.fixture
def page(browser: Browser, proxy: Server) -> Iterator[Page]:
    with visitor(browser, proxy.url, service_workers="block") as page:
        yield page


def test_status_lists_the_inference_servers_and_notices_a_dead_one(page: Page, servers: Servers) -> None:
    opened(page, "status")
    listed = page.get_by_role("region", name="Inference servers").get_by_role("row")
    expect(listed).to_have_count(3)  # with that of the headings
    rows = [listed.filter(has_text=address) for address, _ in servers.entries]
    for row in rows:
        expect(row.get_by_role("cell")).to_have_text(["0", "sd15", "Ready"])
    assert obstacles(page) == []
    servers.kill(0)
    expect(rows[0].get_by_role("cell").last).to_have_text("Not ready")
    expect(rows[0].get_by_role("cell").last).to_have_attribute("title", re.compile("."))
    expect(rows[1].get_by_role("cell")).to_have_text(["0", "sd15", "Ready"])


def test_status_lists_the_inference_servers_in_chinese(page: Page, servers: Servers) -> None:
    opened(page, "status")
    page.get_by_role("combobox", name="Language").select_option("zh")
    listed = page.get_by_role("region", name="推論伺服器").get_by_role("row")
    expect(listed.first).to_contain_text("呼叫數")
    expect(listed.filter(has_text=servers.entries[1][0])).to_contain_text("就緒")
