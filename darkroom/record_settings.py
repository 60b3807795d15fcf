"""The settings of what is allowed and recorded: the content policy, the audit trail, manifests in images, metrics,
traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode
from typing_extensions import Self

from darkroom.family_settings import split_at_commas
from darkroom.home import ROOT

_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})


class RecordSettings(BaseSettings):
    """A part of `darkroom.settings.Settings`."""

    policy_file: Path | None = Field(
        None,
        description="A file with rules that requests are judged by, such as policies/example.yaml; empty: none. It is "
        "read again when it changes.",
    )
    audit: Literal["off", "hash", "full"] = Field(
        "off",
        description="The audit trail: a row for every request that makes, changes or deletes something, in the "
        "database of the tasks. full keeps prompts, hash a keyed hash in place of each.",
    )
    audit_user_headers: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Headers, separated by commas, in which a reverse proxy says who the user is, such as "
        "X-OpenWebUI-User-Email: the audit trail keeps them of requests that come from FORWARDED_ALLOW_IPS.",
    )
    audit_retention_days: float | None = Field(
        None, gt=0, description="Days that rows of the audit trail are kept; empty keeps them for ever."
    )
    c2pa_cert: Path | None = Field(
        None,
        description="The certificate, with those of its issuers behind it, as PEM, that signs a C2PA manifest in every "
        "image; needs C2PA_KEY. Empty: images have none.",
    )
    c2pa_key: Path | None = Field(None, description="The private key of C2PA_CERT, as PEM.")
    metrics: bool = Field(
        True, description="Whether GET /metrics answers, and pipelines and networks measure their work for it."
    )
    metrics_without_key: bool = Field(
        False,
        description="Whether programs on this machine read GET /metrics without a key, where the service has keys. "
        "Otherwise it needs the key of an admin. What comes through a reverse proxy always needs one.",
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        description="Where OpenTelemetry's traces are sent: the URL of a collector that takes OTLP over HTTP, such as "
        "http://127.0.0.1:4318; needs pip install 'darkroom[traces]'. Empty: nothing is traced. Other variables that "
        "begin with OTEL_ are OpenTelemetry's own, and may stand in this file as well.",
    )

    @field_validator("audit_user_headers", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return split_at_commas(value)

    @field_validator("audit_user_headers")
    @classmethod
    def _no_credentials(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name.lower() in _CREDENTIALS:
                raise ValueError(f"must not name a header that carries a secret; got {name!r}")
        return value

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is not None and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ValueError(f"must be a URL such as http://127.0.0.1:4318; got {value!r}")
        return value

    @field_validator("policy_file")
    @classmethod
    def _from_the_home(cls, value: Path | None) -> Path | None:
        return None if value is None else ROOT / value

    @field_validator("c2pa_cert", "c2pa_key")
    @classmethod
    def _file_that_is_there(cls, value: Path | None) -> Path | None:
        if value is not None and not (ROOT / value).is_file():
            raise ValueError(f"must be a file that is there; got {str(value)!r}")
        return None if value is None else ROOT / value

    @model_validator(mode="after")
    def _both_of_c2pa(self) -> Self:
        if (self.c2pa_cert is None) != (self.c2pa_key is None):
            missing = "C2PA_KEY" if self.c2pa_key is None else "C2PA_CERT"
            raise ValueError(f"{missing} is missing: C2PA_CERT and C2PA_KEY go together")
        return self
