"""The PNG writer against Pillow's and against what else could have been taken, on a real result."""

from __future__ import annotations

import importlib.util
import io
import statistics
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

from benchmarks.context import Context
from benchmarks.local import Local, as_pixels, photo
from benchmarks.results import Finding, Section, Table
from benchmarks.timing import in_turns, ratio, timed
from darkroom import png

SPEED_TARGET = 4.0

OURS, PILLOW = "Darkroom (Average, isal 2)", "Pillow, default (6)"
Encoder = Callable[[], bytes]


def run(context: Context) -> Section:
    """Seconds and size of every encoder on the x4 upscaled photo, measured in turns on one thread."""
    context.stage("making a picture to encode")
    pixels = as_pixels(Local("animevideov3").upscale(photo(context.choose(512, 256))))
    candidates = _candidates(pixels)
    sizes = {name: len(encode()) for name, encode in candidates.items()}
    rounds = context.choose(5, 1)
    context.stage("PNG encoders", rounds + 1)
    variants = {name: timed(encode) for name, encode in candidates.items()}
    seconds = in_turns(variants, rounds=rounds, on_round=context.step)
    raw, height, width = pixels.nbytes, *pixels.shape[:2]
    rows = []
    for name in candidates:
        median = statistics.median(seconds[name])
        speed = statistics.median(seconds[PILLOW]) / median
        rows.append((name, median * 1000, raw / median / 1e6, sizes[name] / 1e6, speed, sizes[name] / sizes[PILLOW]))
    table = Table(
        title=f"PNG of the upscaled photo, {width}x{height} RGB",
        columns=("encoder", "ms", "MB/s", "size MB", "times as fast as Pillow", "size / Pillow's"),
        rows=tuple(rows),
        note="`Average` encoders filter every row the way Darkroom does and differ in the deflate behind it.",
    )
    case = f"{width}x{height}"
    speed_ratio = ratio(
        f"Pillow's default seconds / PNG writer's ({case})",
        seconds[PILLOW],
        seconds[OURS],
        target=SPEED_TARGET,
        at_least=True,
    )
    size_ratio = Finding(name=f"PNG writer's size / Pillow's default ({case})", value=sizes[OURS] / sizes[PILLOW])
    return Section(name="encoders", title="PNG encoders", findings=(speed_ratio, size_ratio), tables=(table,))


def _candidates(pixels: NDArray[np.uint8]) -> dict[str, Encoder]:
    image = Image.fromarray(pixels)

    def pillow(**options: Any) -> Encoder:
        def encode() -> bytes:
            target = io.BytesIO()
            image.save(target, "PNG", **options)
            return target.getvalue()

        return encode

    def average(deflate: Callable[[bytes], bytes]) -> Encoder:
        # The writer's own filter, so that the entries differ in nothing but the compressor.
        return lambda: deflate(png._filtered(pixels, 0, pixels.shape[0]))

    found: dict[str, Encoder] = {OURS: lambda: png.encode_png(pixels), PILLOW: pillow()}
    found |= {f"Pillow, level {level}": pillow(compress_level=level) for level in (1, 3)}
    found["Average, zlib 6"] = average(lambda rows: zlib.compress(rows, 6))
    found["Average, zlib Z_RLE"] = average(lambda rows: _run_length(zlib, rows))
    found |= {f"Average, isal {n}": average(partial(_with_level, isal_zlib.compress, n)) for n in range(3)}
    if importlib.util.find_spec("zlib_ng"):
        from zlib_ng import zlib_ng

        found |= {f"Average, zlib-ng {n}": average(partial(_with_level, zlib_ng.compress, n)) for n in (1, 2)}
        found["Average, zlib-ng Z_RLE"] = average(lambda rows: _run_length(zlib_ng, rows))
    return found


def _with_level(compress: Callable[[bytes, int], bytes], level: int, rows: bytes) -> bytes:
    return compress(rows, level)


def _run_length(library: Any, rows: bytes) -> bytes:
    """Deflate that finds runs of one byte only."""
    deflate = library.compressobj(1, library.DEFLATED, 15, 9, library.Z_RLE)
    return bytes(deflate.compress(rows) + deflate.flush())
