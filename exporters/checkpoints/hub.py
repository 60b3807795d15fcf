"""Finds checkpoints by name: a folder, or a repository of the Hugging Face hub, downloaded once and resumably.

A repository lies in `cache`/hub/<owner>--<name>/<commit>/ as plain files in its own layout, which diffusers and
transformers read. Beside them is the list of its files by revision, so that a complete copy can be used offline.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

import click
from huggingface_hub import HfApi, ModelInfo, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, filter_repo_objects, validate_repo_id  # type: ignore[attr-defined]
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from darkroom.files import write_atomically
from darkroom.locks import try_lock
from darkroom.settings import Settings
from exporters.checkpoints.hub_transfer import HTTPError, RemoteFile, bytes_there, fetch, is_there
from exporters.errors import ExportError

DEFAULT_ENDPOINT = "https://huggingface.co"
LISTING_TIMEOUT_SECONDS = 20.0

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
# diffusion_pytorch_model[-00001-of-00002][.fp16][-00001-of-00002].safetensors[.index[.fp16].json]
_WEIGHTS = re.compile(
    r"(?P<stem>[^.]+?)(-\d{5}-of-\d{5})?(\.(?P<variant>\w+?))?(-\d{5}-of-\d{5})?"
    r"\.(?P<format>safetensors|bin)(\.index(\.(?P<index_variant>\w+))?\.json)?"
)
# Weights for other frameworks, and whole pipelines in one file.
_OTHER_FORMATS = (".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".pb", ".pt", ".pth", ".tflite", ".xml")


@dataclass(frozen=True, kw_only=True)
class HubId:
    """A repository of the hub, "owner/name", at a branch, tag or commit."""

    repository: str
    revision: str = "main"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A repository at one commit."""

    commit: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, kw_only=True)
class _Hub:
    """The address of the hub, and the token. The token is not in the repr, and so not in logs and tracebacks."""

    endpoint: str
    token: str | None = field(repr=False)

    @classmethod
    def from_env(cls) -> _Hub:
        """The settings HF_ENDPOINT and HF_TOKEN, the latter else as `hf auth login` has stored it."""
        settings = Settings()
        endpoint = (settings.hf_endpoint or DEFAULT_ENDPOINT).rstrip("/")
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ExportError(f"HF_ENDPOINT must be a URL such as {DEFAULT_ENDPOINT}; got {endpoint!r}.")
        return cls(endpoint=endpoint, token=settings.hf_token or get_token())


class _Unreachable(ExportError):
    """The hub gives no answer; a complete copy of an earlier day may do."""


def resolve(
    checkpoint: str,
    *,
    patterns: Sequence[str],
    cache: Path,
    report: Callable[[str], None] = lambda line: click.echo(line, err=True),
) -> Path:
    """The folder of a checkpoint: the one that is named, or a copy of the hub's repository in `cache`.

    Of every folder's weights one form is fetched: safetensors before .bin, full precision before fp16.
    HF_TOKEN and HF_ENDPOINT are honoured. A broken transfer goes on where it stopped, also after Ctrl-C.

    :param checkpoint: a folder, or "owner/name" with an optional "@revision".
    :param patterns: wildcards for the wanted files' paths in the repository ("unet/*"); "*" matches "/" as well.
    :param report: called with a sentence that says what is downloaded.
    :raises ExportError: neither a folder nor a repository that can be had; says why and what to do.
    """
    found = parse(checkpoint)
    if isinstance(found, Path):
        return found
    hub, home = _Hub.from_env(), cache / "hub" / found.repository.replace("/", "--")
    snapshot = _look_up(found, hub, home, report)
    folder = home / snapshot.commit
    wanted = select(snapshot.files, patterns)
    if not wanted:
        raise ExportError(f"{found.repository} holds none of the files {', '.join(patterns)}: another kind of model?")
    missing = [file for file in wanted if not is_there(file, folder / file.name)]
    if missing:
        _download(found, hub, missing, folder, report)
    return folder


def parse(checkpoint: str) -> Path | HubId:
    """What a checkpoint's name means: a folder that is there, or a hub id.

    :raises ExportError: it looks like a path and is not there, or is no valid hub id.
    """
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ExportError(f"{checkpoint} is a file; a checkpoint is a folder in diffusers' layout, or a hub id.")
    repository, at, revision = checkpoint.partition("@")
    looks_like_path = checkpoint.startswith((".", "/", "~")) or "\\" in checkpoint
    if looks_like_path or not re.fullmatch("[^/]+/[^/]+", repository):
        raise ExportError(
            f"There is no folder {checkpoint!r}, and it is no hub id, which is owner/name, or owner/name@revision."
        )
    if not at and Path(repository.split("/")[0]).is_dir():
        raise ExportError(
            f"There is no folder {checkpoint!r}. If a repository of the hub is meant, write {checkpoint}@main."
        )
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise ExportError(
            f"{repository!r} is no hub id: owner/name of letters, digits, '-', '_' and '.', up to 96 characters, "
            "without '--' and '..'; and there is no such folder."
        ) from None
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ExportError(f"The revision after @ must be a branch, a tag or a commit; got {revision!r}.")
    return HubId(repository=repository, revision=revision or "main")


def select(files: Sequence[RemoteFile], patterns: Sequence[str]) -> list[RemoteFile]:
    """The files that match, small ones first, with one form of weights per folder."""
    matching = filter_repo_objects(files, allow_patterns=list(patterns), key=lambda file: file.name)
    chosen = [file for file in matching if not file.name.endswith(_OTHER_FORMATS)]
    best: dict[PurePosixPath, tuple[int, int]] = {}
    for file in chosen:
        if (form := _form(file.name)) is not None:
            folder = PurePosixPath(file.name).parent
            best[folder] = min(best.get(folder, form), form)
    kept = [file for file in chosen if _form(file.name) in (None, best.get(PurePosixPath(file.name).parent))]
    return sorted(kept, key=lambda file: (file.size, file.name))


def _form(name: str) -> tuple[int, int] | None:
    """What kind of weights a file holds, the best one first; None for a file that holds none."""
    match = _WEIGHTS.fullmatch(PurePosixPath(name).name)
    if match is None:
        return None
    variant = match["variant"] or match["index_variant"]
    return ("safetensors", "bin").index(match["format"]), 0 if variant is None else 1 if variant == "fp16" else 2


def _look_up(wanted: HubId, hub: _Hub, home: Path, report: Callable[[str], None]) -> Snapshot:
    """Return the files of a revision, from the hub, or from the stored list if the hub cannot be reached."""
    record = home / f"{quote(wanted.revision, safe='')}.json"
    try:
        info = HfApi(endpoint=hub.endpoint, token=hub.token or False).model_info(
            wanted.repository, revision=wanted.revision, files_metadata=True, timeout=LISTING_TIMEOUT_SECONDS
        )
        snapshot = _snapshot(info, hub)
    except (HTTPError, OfflineModeIsEnabled, ValueError, TypeError, KeyError) as error:
        failure = _explain(error, wanted, hub)
        known = _remembered(record) if isinstance(failure, _Unreachable) else None
        if known is None:
            raise failure from None
        report(f"{wanted.repository}: {hub.endpoint} cannot be reached; using what is known of it from earlier.")
        return known
    with _disk_errors(home):
        write_atomically(record, json.dumps(asdict(snapshot)).encode())
    return snapshot


def _snapshot(info: ModelInfo, hub: _Hub) -> Snapshot:
    """Convert the answer of the hub.

    :raises ExportError: the name of a file leads out of the repository's folder.
    :raises ValueError: a field that every hub reports is missing.
    """
    files = []
    for entry in info.siblings or ():
        parts = PurePosixPath(entry.rfilename).parts
        if entry.rfilename.startswith("/") or ".." in parts or "\\" in entry.rfilename or "\0" in entry.rfilename:
            raise ExportError(f"{hub.endpoint} lists a file {entry.rfilename!r}, which would lie outside its folder.")
        size = entry.lfs.size if entry.lfs else entry.size
        if size is None:
            raise ValueError(f"no size of {entry.rfilename}")
        large = entry.lfs.sha256 if entry.lfs else None
        blob_id = None if entry.lfs else entry.blob_id
        files.append(RemoteFile(name=entry.rfilename, size=size, sha256=large, blob_id=blob_id))
    if not re.fullmatch(r"[0-9A-Za-z]+", info.sha or ""):
        raise ValueError("no commit")
    return Snapshot(commit=str(info.sha), files=tuple(files))


def _remembered(record: Path) -> Snapshot | None:
    """Return the snapshot that an earlier call stored."""
    try:
        raw = json.loads(record.read_text())
        return Snapshot(commit=raw["commit"], files=tuple(RemoteFile(**file) for file in raw["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _download(
    wanted: HubId, hub: _Hub, missing: Sequence[RemoteFile], folder: Path, report: Callable[[str], None]
) -> None:
    """Fetch the missing files, one after the other.

    :raises ExportError: no space, no access, no connection, or another process is downloading them.
    """
    headers = build_hf_headers(token=hub.token or False, library_name="darkroom")
    total = sum(file.size for file in missing)
    have = sum(bytes_there(file, folder / file.name) for file in missing)
    with _disk_errors(folder), _only_one(folder):
        _require_space(wanted, total - have, folder)
        report(
            f"{wanted.repository}: {decimal(total - have)} to download into {folder}"
            + (f"; {decimal(have)} are there already." if have else ".")
        )
        try:
            with _progress(wanted.repository, total, have) as advance:
                for file in missing:
                    url = hf_hub_url(wanted.repository, file.name, revision=folder.name, endpoint=hub.endpoint)
                    fetch(file, url, headers, folder / file.name, advance)
        except (HTTPError, OfflineModeIsEnabled) as error:
            raise _explain(error, wanted, hub) from None
        except KeyboardInterrupt:
            report("Stopped; the same command goes on from here.")
            raise


@contextmanager
def _progress(label: str, total: int, have: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal's stderr; yields the function that advances it by a number of bytes."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(label, total=total, completed=have)
        yield lambda count: bar.advance(task, count)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Lock a folder, because two processes that append to one file would corrupt it.

    :raises ExportError: another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        if not try_lock(lock.fileno()):
            raise ExportError(f"Another process downloads into {folder}; wait for it, or stop it.")
        yield


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """:raises ExportError: in place of an OSError of the disk."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ExportError(
                f"The disk of {folder} is full; free some space and run the same command: it goes on from here."
            ) from None
        raise ExportError(f"{error.filename or folder} cannot be written: {error.strerror or error}.") from None


def _require_space(wanted: HubId, needed: int, folder: Path) -> None:
    """:raises ExportError: the disk has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ExportError(
            f"{wanted.repository} needs {decimal(needed)} more, and the disk of {folder} has {decimal(free)} left; "
            "free some space, or name a cache on another disk."
        )


def _explain(error: Exception, wanted: HubId, hub: _Hub) -> ExportError:
    """Describe a failure of the hub in one sentence, without the hub's own message, which may quote the request."""
    name, page = wanted.repository, f"{hub.endpoint}/{wanted.repository}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, RevisionNotFoundError):
        return ExportError(f"{name} has no branch, tag or commit {wanted.revision!r} at {hub.endpoint}.")
    if isinstance(error, GatedRepoError) or status == 403:
        access = "the account of your HF_TOKEN has no access" if hub.token else "no HF_TOKEN is set"
        return ExportError(f"{name} is gated, and {access}: accept its licence at {page} and set HF_TOKEN.")
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return ExportError(f"{hub.endpoint} does not accept your HF_TOKEN (401); make a new one, or unset it.")
    if isinstance(error, RepositoryNotFoundError):
        access = "your HF_TOKEN may not see it" if hub.token else "it is private: then set HF_TOKEN"
        return ExportError(f"There is no repository {name} at {hub.endpoint}, or {access}; nor is there such a folder.")
    if status is not None and status < 500 and status != 429:
        return ExportError(f"{hub.endpoint} answers {status} for {name}; is HF_ENDPOINT a hub?")
    if isinstance(error, HTTPError | OfflineModeIsEnabled):
        reason = f"it answers {status}" if status else str(error) or type(error).__name__
        if isinstance(error, OfflineModeIsEnabled):
            reason = "HF_HUB_OFFLINE is set"
        return _Unreachable(
            f"{name} cannot be had from {hub.endpoint} ({reason}). Try again, which goes on where it stopped, or set "
            f"HF_ENDPOINT to a mirror; without a network give a folder: there is none named {name} here."
        )
    return ExportError(f"{hub.endpoint} does not answer as a hub does ({error}); look at HF_ENDPOINT.")
