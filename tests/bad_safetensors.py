"""Files that say they are LoRAs in safetensors, and are not."""

from __future__ import annotations

import json
import struct

import numpy as np
from safetensors.numpy import save

LORA = save({"unet.mid_block.x.lora_A.weight": np.ones((4, 8), np.float32)})
"""A whole file, of no model that there is."""


def bad_files() -> dict[str, bytes]:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    return {
        "empty": b"",
        "text": b"hello, this is not a LoRA",
        "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix",
        "zip": b"PK\x03\x04" + bytes(100),
        "truncated": LORA[:-4],
        "longer": LORA + b"more",
        "huge header": struct.pack("<Q", 1 << 40) + b"{}",
        "header over the file": struct.pack("<Q", 10_000) + b"{}",
        "no json": struct.pack("<Q", 8) + b"notjson!",
        "no tensors": struct.pack("<Q", 8) + b"{}      ",
        "wrong shape": struct.pack("<Q", len(header)) + header + bytes(12),
    }
