"""Checks before anything is started; each problem is one sentence that says what to fix."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import psutil
import sqlalchemy as sa

from darkroom import tracing
from darkroom.errors import Conflict
from darkroom.home import CODE, PREPARE, ROOT
from darkroom.registry import all_specs
from darkroom.settings import Settings
from proxy.migrations import require_known, version_of
from proxy.policy.document import PolicyError, read_policy
from proxy.provenance import Provenance
from proxy.tasks.database import connect
from supervisor.errors import SetupError


def preflight(settings: Settings) -> None:
    """Run all checks. :raises SetupError: the first problem that is found."""
    cheap = (
        *family_problems(settings),
        *tracing_problems(),
        *signing_problems(settings),
        *policy_problems(settings),
        *database_problems(settings),
    )
    exports = missing_exports(settings) if settings.serve_only != "proxy" else []
    for problem in (*cheap, *exports, *taken_ports(settings)):
        raise SetupError(problem)


def family_problems(settings: Settings) -> list[str]:
    """Return what this machine lacks for the settings of the model families."""
    return [problem for family in settings.family_settings.values() for problem in family.problems(settings.gpus)]


def tracing_problems() -> list[str]:
    """Return a sentence on packages that are missing for traces."""
    problem = tracing.problem()
    return [] if problem is None else [problem]


def signing_problems(settings: Settings) -> list[str]:
    """Return a sentence on a certificate or a key that images cannot be signed with."""
    try:
        Provenance.of(settings)
    except ValueError as error:
        return [str(error)]
    return []


def policy_problems(settings: Settings) -> list[str]:
    """Return what is wrong with the content policy, with the lines of the file."""
    if settings.policy_file is None:
        return []
    try:
        read_policy(settings.policy_file)
    except PolicyError as error:
        return [f"POLICY_FILE cannot be used: {problem}" for problem in error.problems]
    return []


def database_problems(settings: Settings) -> list[str]:
    """Return a sentence on a database that a newer release has made. One that does not answer is no problem here: the
    proxy waits for it."""
    file = sa.make_url(settings.database).database
    if settings.database.startswith("sqlite") and not Path(file or "").is_file():
        return []
    engine = connect(settings.database)
    try:
        with engine.connect() as connection:
            require_known(version_of(connection))
    except Conflict as error:
        return [error.message]
    except sa.exc.SQLAlchemyError:
        return []
    finally:
        engine.dispose()
    return []


def missing_exports(settings: Settings) -> list[str]:
    """Return a sentence on the models of the repository whose weights are missing."""
    folders = [spec for spec in all_specs() if (settings.model_repository / spec.name / "config.pbtxt").exists()]
    if not folders:
        make = "python -m exporters config" if ROOT == CODE else f"darkroom init --demo {ROOT}"
        return [f"The model repository {settings.model_repository} has no models; run: {make}"]
    missing = [
        spec.name
        for spec in folders
        if not all((settings.model_repository / spec.name / "1" / file).exists() for file in spec.files)
    ]
    if not missing:
        return []
    which = missing[0] if len(missing) == 1 else f"{missing[0]} and {len(missing) - 1} more"
    return [f"The model {which} is not exported yet; run: python -m exporters prepare ({PREPARE} does it)."]


def taken_ports(settings: Settings) -> list[str]:
    """Return a sentence for each of our ports that another process listens on."""
    wanted = [("PORT", settings.host, settings.port)]
    of_triton = [
        ("TRITON_GRPC_PORT", settings.triton_grpc_bind, settings.triton_grpc_port),
        ("TRITON_METRICS_PORT", settings.triton_metrics_bind, settings.triton_metrics_port),
    ]
    if settings.triton_allow_http:
        of_triton.append(("TRITON_HTTP_PORT", "127.0.0.1", settings.triton_http_port))
    wanted = {"proxy": wanted, "triton": of_triton, None: wanted + of_triton}[settings.serve_only]
    return [problem for name, host, port in wanted for problem in _taken(name, host, port)]


def _taken(name: str, host: str, port: int) -> list[str]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return [f"Port {port} is taken{_by_whom(port)}; stop that or set {name} to another port."]
            return [f"Port {port} on {host} cannot be opened ({error.strerror}); set {name} or HOST to another value."]
    return []


def _by_whom(port: int) -> str:
    try:
        found = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return ""
    for connection in found:
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            try:
                return (
                    f" by {psutil.Process(connection.pid).name()} (process {connection.pid})" if connection.pid else ""
                )
            except psutil.NoSuchProcess:
                return ""
    return ""
