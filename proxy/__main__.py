"""`python -m proxy`: the REST server alone, in front of a Triton that is already running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from darkroom import tracing
from darkroom.home import ENV_FILE
from darkroom.parallel.processes import follow_parent
from darkroom.settings import Settings
from proxy import observability
from proxy.app import create_app
from proxy.http.peers import ProxyHeaders
from proxy.http.protocol import protocol
from proxy.policy.document import PolicyError, read_policy
from proxy.waiting import at_most

log = logging.getLogger("proxy")


class DrainingServer(uvicorn.Server):
    """On the first SIGTERM or Ctrl-C: refuse new work with 503, let accepted work finish, then stop. On the
    second one: stop."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        trusted = settings.forwarded_allow_ips
        served: ASGIApp = ProxyHeaders(app, trusted=trusted) if trusted else app
        super().__init__(
            uvicorn.Config(
                served,
                host=settings.host,
                port=settings.port,
                http=protocol(settings.request_timeout),
                log_config=None,
                access_log=False,
                # Trusted proxies say who the clients are (`ProxyHeaders`); to trust this machine, which is uvicorn's
                # default, would let every program on it be as many clients as it likes.
                proxy_headers=False,
                timeout_graceful_shutdown=10,
            )
        )
        self._app = app
        self._drain_timeout = settings.drain_timeout
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn's signal handler."""
        services = getattr(self._app.state, "services", None)
        if services is None or services.gate.draining:
            super().handle_exit(sig, frame)
            return
        services.gate.draining = True
        log.info("draining: %d tasks run, %d wait", services.gate.active, services.gate.queued)
        # We are in a signal handler between two steps of the loop: only hand over.
        asyncio.get_running_loop().call_soon_threadsafe(self._start_draining)

    def _start_draining(self) -> None:
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        gate = self._app.state.services.gate
        try:
            await at_most(self._drain_timeout, gate.wait_idle())
            log.info("drained")
        except asyncio.TimeoutError:
            log.warning("drain time is over: %d running and %d waiting tasks are cut off", gate.active, gate.queued)
        self.should_exit = True


def main() -> None:
    """Serve until stopped."""
    follow_parent()
    settings = Settings()
    observability.configure(level=settings.log_level, file=settings.log_dir / "proxy.log", format=settings.log_format)
    for line in settings.warnings():
        log.warning(line)
    tracing.read(ENV_FILE)
    if missing := tracing.problem():
        sys.exit(missing)
    tracing.start("proxy")
    if settings.policy_file is not None:
        try:
            read_policy(settings.policy_file)
        except PolicyError as error:
            sys.exit("\n".join(f"POLICY_FILE cannot be used: {problem}" for problem in error.problems))
    try:
        app = create_app(settings)
    except (OSError, ValueError) as error:  # files that settings name
        log.error("the service cannot start: %s", error)
        sys.exit(1)
    server = DrainingServer(app, settings)
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises when it has ended
        server.run()
    tracing.close()
    logging.shutdown()
    os._exit(0 if server.started else 1)  # threads of DBOS that wait for a database would keep the process


if __name__ == "__main__":
    main()
