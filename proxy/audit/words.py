"""Prompts in the audit trail: as they are, or as hashes."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darkroom.settings import Settings

_PROMPT = "prompt"
_SALT = "audit.salt"
_SALT_BYTES = 32
_KIND = "hmac-sha256:"


class Words:
    """What the trail keeps of texts.

    :param salt: the key of the hashes; None keeps the texts themselves.
    """

    def __init__(self, salt: bytes | None) -> None:
        self._salt = salt

    @classmethod
    def of(cls, settings: Settings) -> Words:
        """Return what the settings ask for; the salt is made where there is none.

        :raises OSError: it cannot be read or written.
        """
        return cls(read_salt(settings.data_dir / _SALT) if settings.audit == "hash" else None)

    def prompts(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The prompts among the fields of a request, by the names of the fields; those that are empty are left out."""
        texts = {name: value for name, value in values.items() if _PROMPT in name and isinstance(value, str) and value}
        return {name: self._kept(text) for name, text in texts.items()}

    def _kept(self, text: str) -> str:
        if self._salt is None:
            return text
        digest = hmac.new(self._salt, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return _KIND + digest.hexdigest()


def read_salt(path: Path) -> bytes:
    """The secret of the hashes, so that short prompts cannot be guessed from a table. It is made once: several proxies
    that share the folder use the same one.

    :raises OSError: the file cannot be read or written, or is damaged.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{_SALT}.")  # for its owner only
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_hex(_SALT_BYTES).encode())
                file.flush()
                os.fsync(handle)
            os.link(name, path)
        except FileExistsError:
            pass  # another proxy was first
        finally:
            Path(name).unlink()
    text = path.read_bytes().strip()
    if len(text) != 2 * _SALT_BYTES:
        raise OSError(f"{path} must have {2 * _SALT_BYTES} hexadecimal digits; got {len(text)} bytes")
    return bytes.fromhex(text.decode("ascii"))
