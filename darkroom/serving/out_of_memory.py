"""Recognises errors of all engines that say that memory ran out."""

from __future__ import annotations

MARK = "OUT_OF_MEMORY: "
"""Prefix of such an error from our ONNX Runtime backend. Part of its interface."""

# Parts, in lower case, of the messages of engines: MARK; Python; ONNX Runtime's arena, with and without gpu_mem_limit;
# the C++ library; CUDA and torch; TensorRT; cuBLAS and cuDNN 8; cuDNN 9.
_PIECES = (
    "out_of_memory",
    "memoryerror",
    "failed to allocate memory",
    "smaller than requested bytes",
    "bad_alloc",
    "out of memory",
    "can't allocate memory",
    "cudaerrormemoryallocation",
    "outofmemory",
    "_status_alloc",
    "allocation_failed",
)


def is_out_of_memory(error: Exception | str) -> bool:
    """Whether an error, or its text, says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return any(piece in text for piece in _PIECES)
