"""Downloads one file of a hub: resumes it where it stopped, and checks it before it gets its name.

huggingface_hub is used for listing only, because it cannot resume: since 1.18 it writes to a file with a random name,
and deletes that when the transfer fails, so a file of 4 GB that failed near its end would start from the beginning.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_session, hf_raise_for_status

# The base class of all errors of a transfer: that of httpx with huggingface_hub 1, of httpx2 with 2.
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

from exporters.errors import ExportError

__all__ = ["HTTPError", "RemoteFile", "bytes_there", "fetch", "is_there", "part_path"]

ATTEMPTS = 5
"""Number of attempts in a row without a new byte after which the transfer fails."""
WAIT_SECONDS = 1.0
"""Pause before each new attempt."""
TIMEOUT_SECONDS = 30.0
"""Time without a byte from the hub after which an attempt fails."""
_CHUNK = 1 << 20
_TRANSIENT = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a repository at one commit.

    :param name: its path in the repository.
    :param size: size in bytes.
    :param sha256: the hash of a large file (Git LFS or Xet); None for others.
    :param blob_id: Git's SHA-1 of a file that is in Git itself; None for others.
    """

    name: str
    size: int
    sha256: str | None = None
    blob_id: str | None = None


def part_path(target: Path) -> Path:
    """Return the path of a file while it is incomplete."""
    return target.with_name(target.name + ".part")


def is_there(file: RemoteFile, target: Path) -> bool:
    """Whether a file is complete; it was checked before it got its name."""
    return target.is_file() and target.stat().st_size == file.size


def bytes_there(file: RemoteFile, target: Path) -> int:
    """The number of bytes of a file that are on the disk already."""
    if is_there(file, target):
        return file.size
    part = part_path(target)
    have = part.stat().st_size if part.exists() else 0
    return have if have <= file.size else 0


def fetch(file: RemoteFile, url: str, headers: Mapping[str, str], target: Path, advance: Callable[[int], None]) -> None:
    """Download `file` to `target`, continuing after the bytes in its .part file.

    :param headers: headers of every request, such as the authorization; not sent to another host after a redirect.
    :param advance: called with the number of received bytes, as they arrive.
    :raises ExportError: the file does not have the announced size or hash; it is deleted.
    :raises HTTPError: of huggingface_hub: the hub refused, or ATTEMPTS attempts in a row brought no new byte.
    :raises OSError: the disk is full, or not to be written to.
    """
    if is_there(file, target):
        return
    part = part_path(target)
    part.parent.mkdir(parents=True, exist_ok=True)
    if bytes_there(file, target) == 0:  # nothing yet, or more than there can be
        part.open("wb").close()
    fruitless = 0
    while (have := part.stat().st_size) < file.size:
        broken = _transfer(file, url, headers, part, advance)
        fruitless = 0 if part.stat().st_size > have else fruitless + 1
        if fruitless >= ATTEMPTS:
            raise broken or ExportError(f"{file.name} ends after {have:,} of {file.size:,} bytes; try again later.")
        if broken:
            time.sleep(WAIT_SECONDS)
    _verify(file, part)
    part.replace(target)


def _transfer(
    file: RemoteFile, url: str, headers: Mapping[str, str], part: Path, advance: Callable[[int], None]
) -> HTTPError | None:
    """One request for the bytes that `part` lacks; returns what broke it, if another attempt may help."""
    have = part.stat().st_size
    wanted = {**headers, "Accept-Encoding": "identity"}  # compressed bytes could not be counted, nor resumed
    if have:
        wanted["Range"] = f"bytes={have}-"
    try:
        with (
            part.open("ab") as out,
            get_session().stream("GET", url, headers=wanted, timeout=TIMEOUT_SECONDS) as response,
        ):
            hf_raise_for_status(response)
            if have and response.status_code != 206:  # the server knows no ranges: the whole file is coming
                out.truncate(0)
                advance(-have)
                have = 0
            for chunk in response.iter_bytes():  # as they come: a broken connection loses none
                out.write(chunk)
                advance(len(chunk))
                have += len(chunk)
                if have > file.size:
                    break
    except HTTPError as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code not in _TRANSIENT:
            raise
        return error
    if have > file.size:
        part.unlink()
        raise ExportError(
            f"{file.name} should have {file.size:,} bytes, and the hub sends more; what came in was deleted."
        )
    return None


def _verify(file: RemoteFile, part: Path) -> None:
    """:raises ExportError: the file's hash is not the announced one; the file is deleted."""
    if file.sha256 is not None:
        name, expected, hashed = "sha256", file.sha256, hashlib.sha256()
    elif file.blob_id is not None:
        name, expected, hashed = "Git hash", file.blob_id, hashlib.sha1(usedforsecurity=False)
        hashed.update(b"blob %d\0" % file.size)
    else:
        return
    with part.open("rb") as content:
        while chunk := content.read(_CHUNK):
            hashed.update(chunk)
    if hashed.hexdigest() != expected:
        part.unlink()
        raise ExportError(
            f"{file.name} came in damaged: its {name} is {hashed.hexdigest()}, the hub says {expected}; it was "
            "deleted. Try again, or look at the proxy or mirror in between."
        )
