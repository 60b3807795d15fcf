"""Communication between the leader and the ranks: small JSON messages on a Unix socket, and tensors in anonymous
memory.

Both vanish with the processes that hold them, also after kill -9: the memory has no name in the file system.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_LONGEST = 1 << 16
_ALIGNMENT = 64
FLOATS = {str(kind).removeprefix("torch."): kind for kind in (torch.float32, torch.float16, torch.bfloat16)}
DTYPES = FLOATS | {str(kind).removeprefix("torch."): kind for kind in (torch.int32, torch.int64)}
"""The dtypes of tensors that can be sent, by name."""


class Channel:
    """One end of a connection that keeps messages apart (SOCK_SEQPACKET). Sending is thread safe."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()

    @classmethod
    def connect(cls, path: Path) -> Channel:
        """Connect to the socket at `path`. :raises OSError: no process listens there."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(path))
        return cls(connection)

    def fileno(self) -> int:
        """The file descriptor, for selectors."""
        return self._socket.fileno()

    def peer(self) -> int:
        """The process id of the other end, as the kernel reports it."""
        size = struct.calcsize("3i")
        pid, _, _ = struct.unpack("3i", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return int(pid)

    def send(self, message: Mapping[str, Any], *, fd: int | None = None) -> None:
        """Send a message. :param fd: a file descriptor to send along. :raises OSError: the other end is closed."""
        data = json.dumps(message).encode()
        with self._sending:
            socket.send_fds(self._socket, [data], [] if fd is None else [fd])

    def receive(self) -> dict[str, Any] | None:
        """Return the next message, with "fd" if a descriptor came along; None if the other end is closed."""
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, _LONGEST, 1)
        except ConnectionError:
            return None
        if not data:
            return None
        message: dict[str, Any] = json.loads(data)
        return {**message, "fd": fds[0]} if fds else message

    def close(self) -> None:
        """Close the connection; the other end receives None."""
        self._socket.close()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The position of a tensor in the shared memory. `offset` is in bytes, `dtype` a name without "torch."."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def to_json(self) -> dict[str, Any]:
        """The fields, for a message; the other end calls `Entry(**fields)`."""
        return asdict(self)

    @property
    def end(self) -> int:
        """The offset of the first byte after the tensor."""
        return self.offset + DTYPES[self.dtype].itemsize * torch.Size(self.shape).numel()


class SharedTensors:
    """Tensors in memory that several processes map; it grows and never shrinks.

    :param fd: the descriptor of the memory; by default new memory is made.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.memfd_create("darkroom-ranks") if fd is None else fd
        self._map: mmap.mmap | None = None

    def write(self, tensors: Mapping[str, Tensor]) -> list[Entry]:
        """Write float tensors from offset 0 on, over the earlier ones. :raises OSError: there is not enough memory."""
        entries, offset = [], 0
        for name, tensor in tensors.items():
            dtype = str(tensor.dtype).removeprefix("torch.")
            entries.append(Entry(name=name, dtype=dtype, shape=tuple(tensor.shape), offset=offset))
            offset = -(-entries[-1].end // _ALIGNMENT) * _ALIGNMENT
        if os.fstat(self.fd).st_size < offset:
            os.ftruncate(self.fd, offset)
        for entry, view in zip(entries, self.views(entries).values(), strict=True):
            view.copy_(tensors[entry.name])
        return entries

    def views(self, entries: Sequence[Entry]) -> dict[str, Tensor]:
        """Return the tensors themselves, not copies: all processes see what is written to them."""
        if self._map is None or len(self._map) < max(entry.end for entry in entries):
            # The old mapping is unmapped when the last tensor that uses it is deleted.
            self._map = mmap.mmap(self.fd, 0)
        views = {}
        for entry in entries:
            count = torch.Size(entry.shape).numel()
            flat = torch.frombuffer(self._map, dtype=DTYPES[entry.dtype], count=count, offset=entry.offset)
            views[entry.name] = flat.view(entry.shape)
        return views

    def close(self) -> None:
        """Free the memory, as soon as no tensor uses it any more."""
        self._map = None
        os.close(self.fd)
