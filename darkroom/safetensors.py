"""A look at safetensors files that clients send, before anything else reads them."""

from __future__ import annotations

import safetensors

from darkroom.errors import InvalidInput

MAX_HEADER_BYTES = 16 << 20


def check(data: bytes, *, param: str) -> None:
    """Refuse what is no whole safetensors file with at least one tensor.

    :raises InvalidInput: it is not; the message says why.
    """
    if int.from_bytes(data[:8], "little") > MAX_HEADER_BYTES:
        raise InvalidInput(f"{param} is no safetensors file: its header would be too large.", param=param)
    try:
        tensors = safetensors.deserialize(data)  # type: ignore[no-untyped-call]  # a compiled function
    except safetensors.SafetensorError as error:
        raise InvalidInput(f"{param} is no safetensors file, or a damaged one ({error}).", param=param) from None
    if not tensors:
        raise InvalidInput(f"{param} is a safetensors file without tensors.", param=param)
