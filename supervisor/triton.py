"""Find a tritonserver, lay out its backend folder, and build its command line.

Facts about the wheel (nvidia-pytriton 0.7.0 = Triton 2.51): it has the server, the Python backend and a stub
per Python version, but no folder in which the three stand together, and it finds neither its own libraries
nor libpython without LD_LIBRARY_PATH.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from darkroom.home import INSTALL, SHIPPED
from darkroom.serving.lora_layout import NATIVE
from supervisor.errors import SetupError

POLLING = ("--model-control-mode=poll", "--repository-poll-secs=1")
"""The server checks its repository every second, and loads and unloads models (docs/decisions/
0022-one-model-is-loaded-again-alone.md). So models cannot be loaded over the network."""


@dataclass(frozen=True, kw_only=True)
class TritonInstall:
    """One usable tritonserver. `backends` is None where the server brings a complete folder of its own."""

    binary: Path
    source: str
    backends: Path | None
    library_path: tuple[Path, ...]

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment for the server: `base`, its libraries, and this Python first on PATH for the stubs."""
        env = dict(base)
        libraries = [str(p) for p in self.library_path] + [env.get("LD_LIBRARY_PATH", "")]
        env["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
        if self.backends is None:
            env[NATIVE] = "1"
        return env


def libpython_folder(minor: int = sys.version_info.minor) -> Path:
    """Return the folder of libpython3.<minor>.so, which the stub is linked against.

    :raises SetupError: this Python has no shared library; says how to get one.
    """
    name = f"libpython3.{minor}.so.1.0"
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    prefixes = [
        sysconfig.get_config_var("LIBDIR"),
        f"{sys.base_prefix}/lib",
        f"/usr/lib/{multiarch}",
        "/usr/lib64",
    ]
    for folder in dict.fromkeys(filter(None, prefixes)):
        if (Path(folder) / name).exists():
            return Path(folder)
    raise SetupError(
        f"{name} was not found, and Triton's Python backend needs it: install it "
        f"(Debian/Ubuntu: apt install libpython3.{minor}; pyenv: rebuild with PYTHON_CONFIGURE_OPTS=--enable-shared)."
    )


def find_triton(state_dir: Path) -> TritonInstall:
    """Return the tritonserver on PATH (NVIDIA's container), else the one in the nvidia-pytriton wheel.

    :param state_dir: where the wheel's backend folder may be assembled.
    :raises SetupError: there is neither, or a part is missing.
    """
    on_path = shutil.which("tritonserver")
    if on_path:
        return TritonInstall(binary=Path(on_path), source="PATH", backends=None, library_path=())
    spec = importlib.util.find_spec("pytriton")  # not imported, which would start threads and patch asyncio
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(
            "No tritonserver was found: neither on the PATH nor as the Python package nvidia-pytriton. "
            f"Run {INSTALL}, or start inside NVIDIA's Triton container."
        )
    package = Path(spec.submodule_search_locations[0])
    server = package / "tritonserver"
    return TritonInstall(
        binary=server / "bin" / "tritonserver",
        source="nvidia-pytriton",
        backends=assemble_backends(server, state_dir / "backends"),
        library_path=(package.parent / "nvidia_pytriton.libs", libpython_folder()),
    )


def assemble_backends(server: Path, target: Path) -> Path:
    """Put the Python backend, the stub of this Python version and our own backends into one folder.

    Files that already stand there unchanged are left alone, so a second start copies nothing.

    :raises SetupError: the wheel has no stub for this Python.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise SetupError(f"The nvidia-pytriton package has no Triton stub for Python {version}; use 3.10 to 3.13.")
    sources = {path: target / "python" / path.name for path in (server / "backends" / "python").glob("*.*")}
    sources[stub] = target / "python" / stub.name
    for path in (SHIPPED / "backends").glob("*/*.py"):
        sources[path] = target / path.parent.name / path.name
    for source, copy in sources.items():
        _copy_if_changed(source, copy)
    return target


def _copy_if_changed(source: Path, copy: Path) -> None:
    ours, theirs = source.stat(), copy.stat() if copy.exists() else None
    if theirs and (theirs.st_size, theirs.st_mtime_ns) == (ours.st_size, ours.st_mtime_ns):
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    # A running server may have the old file mapped: replace the name, never write into the file.
    staged = copy.with_name(f".{copy.name}.{os.getpid()}")
    shutil.copy2(source, staged)
    staged.replace(copy)


def triton_command(
    install: TritonInstall,
    *,
    repository: Path,
    grpc_port: int,
    metrics_port: int,
    shm_prefix: str,
    http_port: int | None = None,
    grpc_address: str = "127.0.0.1",
    metrics_address: str = "127.0.0.1",
    extra: tuple[str, ...] = (),
) -> list[str]:
    """Return the command line of the server: loopback only unless addresses are given, HTTP off unless a port is.

    HTTP is off because the HTTP front end of 2.51 can be crashed by a hostile body (fixed in 25.10).

    :param shm_prefix: prefix of the shared-memory regions of the stubs, so that leftovers can be swept.
    """
    command = [
        str(install.binary),
        f"--model-repository={repository}",
        f"--grpc-address={grpc_address}",
        f"--grpc-port={grpc_port}",
        f"--metrics-address={metrics_address}",
        f"--metrics-port={metrics_port}",
        "--backend-config=python,thread-pool-size=64",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--exit-timeout-secs=5",
    ]
    if install.backends:
        command.append(f"--backend-directory={install.backends}")
    if http_port is None:
        command.append("--allow-http=false")
    else:
        command += ["--http-address=127.0.0.1", f"--http-port={http_port}"]
    return [*command, *extra]
