"""The settings of Triton: the one that this service starts, and those that its proxy uses."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode
from typing_extensions import Self

from darkroom.family_settings import split_at_commas

Port = Annotated[int, Field(ge=1, le=65535)]
Names = Annotated[tuple[str, ...], NoDecode]

DNS = "dns:///"
"""Stands before a name that means all its addresses, as in gRPC."""
_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")


class TritonSettings(BaseSettings):
    """A part of `darkroom.settings.Settings`."""

    triton_grpc_port: Port = Field(8001, description="Port of gRPC.")
    triton_metrics_port: Port = Field(8002, description="Port of the metrics.")
    triton_grpc_bind: str = Field(
        "127.0.0.1",
        description="Address of gRPC. 0.0.0.0 opens it to other machines, which can then run any model without the "
        "limits of this file.",
    )
    triton_metrics_bind: str = Field(
        "127.0.0.1", description="Address of the metrics; 0.0.0.0 opens them to proxies on other machines."
    )
    triton_allow_http: bool = Field(
        False, description="Whether Triton's HTTP is on. It is off because this version's HTTP server can be crashed."
    )
    triton_http_port: Port = Field(8010, description="Port of HTTP.")
    triton_grpc_host: str = Field(
        "127.0.0.1", description="Where the proxy finds Triton when it runs by itself (python -m proxy)."
    )
    triton_grpc: Names = Field(
        (),
        description="Several Tritons for the proxy (docs/deploying.md): HOST:PORT of each, separated by commas, or "
        "dns:///NAME:PORT for all addresses of a name. Empty: the one of TRITON_GRPC_HOST and TRITON_GRPC_PORT.",
    )
    triton_metrics: Names = Field(
        (),
        description="URLs of their metrics, as many and in the same order. Empty: port TRITON_METRICS_PORT of the same "
        "hosts.",
    )
    serve_only: Literal["proxy", "triton"] | None = Field(
        None, description="What `darkroom serve` starts: proxy or triton alone; empty: both."
    )
    canary_interval: float = Field(
        30,
        gt=0,
        description="Seconds between health checks: each model has to answer a small inference. A server that fails "
        "twice is restarted, unless it is only busy: work goes on meanwhile.",
    )
    canary_timeout: float = Field(
        120,
        gt=0,
        description="Seconds that the answer to a health check may take. Allow for one step of the largest image, and, "
        "where a model is divided over several devices, for loading the whole of it onto one of them.",
    )
    load_idle_timeout: float = Field(
        60,
        gt=0,
        description="Seconds for which a model that is loading may use neither the processor nor files. After that its "
        "process is ended, and it is loaded again.",
    )

    @field_validator("triton_grpc", "triton_metrics", mode="before")
    @classmethod
    def _parts(cls, value: object) -> object:
        return split_at_commas(value)

    @field_validator("triton_grpc")
    @classmethod
    def _hosts_and_ports(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            found = _HOST_AND_PORT.fullmatch(entry.removeprefix(DNS))
            if found is None or not 1 <= int(found["port"]) <= 65535:
                raise ValueError(f"must be HOST:PORT or {DNS}NAME:PORT, separated by commas; got {entry!r}")
        _require_once(value)
        return value

    @field_validator("triton_metrics")
    @classmethod
    def _urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if urlsplit(entry).scheme not in ("http", "https") or not urlsplit(entry).hostname:
                raise ValueError(f"must be URLs such as http://HOST:8002/metrics, separated by commas; got {entry!r}")
        _require_once(value)
        return value

    @field_validator("serve_only", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if self.triton_metrics and len(self.triton_metrics) != max(1, len(self.triton_grpc)):
            raise ValueError(
                f"TRITON_METRICS must have one URL for each address of TRITON_GRPC, which has "
                f"{max(1, len(self.triton_grpc))}; got {len(self.triton_metrics)}"
            )
        return self

    @property
    def tritons(self) -> tuple[tuple[str, str], ...]:
        """The Tritons of the proxy: for each, or for each name of several, TRITON_GRPC's entry and the URL of its
        metrics."""
        entries = self.triton_grpc or (f"{self.triton_grpc_host}:{self.triton_grpc_port}",)
        usual = [f"http://{host_and_port(entry)[0]}:{self.triton_metrics_port}/metrics" for entry in entries]
        return tuple(zip(entries, self.triton_metrics or usual, strict=True))


def host_and_port(entry: str) -> tuple[str, int]:
    """Return the host, an IPv6 address in brackets, and the port of an entry of TRITON_GRPC."""
    host, _, port = entry.removeprefix(DNS).rpartition(":")
    return host, int(port)


def _require_once(value: tuple[str, ...]) -> None:
    """:raises ValueError: an entry stands there twice: its server would count as two."""
    for entry in value:
        if value.count(entry) > 1:
            raise ValueError(f"must name each server once; got {entry!r} twice")
