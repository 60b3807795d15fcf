"""The upscale pipeline in process, with networks whose answer is known to the last bit."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from darkroom.errors import Cancelled, InvalidInput, NetworkError, OutOfMemory, TooLarge
from darkroom.pipelines.upscale.networks import NETWORKS, choose, model_names
from darkroom.pipelines.upscale.pipeline import UpscaleContext, Upscaled, upscale
from darkroom.pipelines.upscale.request import UpscaleRequest, default_tile
from darkroom.pipelines.upscale.settings import Settings
from darkroom.serving.networks import Array, Tensors
from tests.pictures import encoded, photo, pixels

LIMITS = Settings()


class Blurring:
    """Averages over 5x5 pixels and repeats each pixel: sees two pixels around, so tiles with that much margin
    must give exactly what the whole picture gives. Counts its calls; can run out of memory or fail."""

    def __init__(self, scale: int, *, memory: int = 10**9, fail_at: int = 0) -> None:
        self.scale, self.memory, self.fail_at = scale, memory, fail_at
        self.calls = self.running = self.most = 0

    async def __call__(self, inputs: Tensors) -> dict[str, Array]:
        image = inputs["image"]
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if self.calls == self.fail_at:
            raise NetworkError("planted")
        if image.shape[1] * image.shape[2] > self.memory:
            raise OutOfMemory("no room")
        padded = np.pad(image.astype(np.uint32), ((0, 0), (2, 2), (2, 2), (0, 0)))
        blurred = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2)).sum((-1, -2)) // 25
        return {"upscaled": blurred.astype(np.uint8).repeat(self.scale, 1).repeat(self.scale, 2)}


def run(image: Image.Image, network: Blurring, *, limits: Settings = LIMITS, **fields: Any) -> Upscaled:
    request = UpscaleRequest.parse({"model": "animevideov3-x2", **fields}, limits)
    runner = UpscaleContext(network=network, limits=limits)
    return asyncio.run(upscale(encoded(image), request, runner))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.parametrize("tile", [32, 50, 400])
def test_tiled_is_exactly_untiled(mode: str, tile: int) -> None:
    image = photo(0, 0, 150, 97)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    whole = run(image.convert(mode), Blurring(2), tile=0)
    tiled = run(image.convert(mode), Blurring(2), tile=tile, tile_pad=2)
    assert np.array_equal(pixels(whole.data), pixels(tiled.data))
    assert whole.shape == (194, 300, len(mode))


def test_a_margin_that_is_too_small_shows() -> None:
    """The test above can fail."""
    image = photo(0, 0, 150, 97)
    whole, tiled = run(image, Blurring(2), tile=0), run(image, Blurring(2), tile=32, tile_pad=0)
    # Windows are rounded up to 8 pixels, so some borders still have margin; not all.
    assert not np.array_equal(pixels(whole.data), pixels(tiled.data))


def test_constant_alpha_costs_no_network() -> None:
    image = photo(0, 0, 64, 64)
    image.putalpha(200)
    network = Blurring(2)
    result = run(image, network)
    assert network.calls == 1
    assert (pixels(result.data)[..., 3] == 200).all()


def test_tiles_in_flight_is_a_bound() -> None:
    network = Blurring(2)
    run(photo(0, 0, 256, 256), network, tile=32, limits=Settings(tiles_in_flight=3))
    assert network.calls == 64
    assert network.most == 3


def test_out_of_memory_halves_the_tile() -> None:
    image = photo(0, 0, 256, 200)
    small = Blurring(2, memory=100 * 100)
    result = run(image, small, tile=256, tile_pad=2)
    assert result.tile == 64
    assert np.array_equal(pixels(result.data), pixels(run(image, Blurring(2), tile=0).data))


def test_out_of_memory_at_the_smallest_tile_is_told() -> None:
    with pytest.raises(OutOfMemory):
        run(photo(0, 0, 128, 128), Blurring(2, memory=100))


def test_after_an_error_no_further_tile_starts() -> None:
    network = Blurring(2, fail_at=5)
    with pytest.raises(NetworkError, match="planted"):
        run(photo(0, 0, 256, 256), network, tile=32)
    assert network.calls <= 5 + LIMITS.tiles_in_flight


def test_stopping_stops_within_the_tiles_in_flight() -> None:
    network, limits = Blurring(2), Settings(tiles_in_flight=2)
    request = UpscaleRequest.parse({"model": "animevideov3-x2", "tile": 32}, limits)
    runner = UpscaleContext(network=network, limits=limits, stopped=lambda: network.calls >= 3)
    with pytest.raises(Cancelled):
        asyncio.run(upscale(encoded(photo(0, 0, 256, 256)), request, runner))
    assert network.calls <= 3 + limits.tiles_in_flight


def test_progress_counts_to_the_end() -> None:
    steps: list[tuple[int, int]] = []
    request = UpscaleRequest.parse({"model": "animevideov3-x2", "tile": 64}, LIMITS)
    runner = UpscaleContext(
        network=Blurring(2),
        limits=LIMITS,
        on_progress=lambda done, of: steps.append((done, of)),
    )
    asyncio.run(upscale(encoded(photo(0, 0, 128, 192)), request, runner))
    assert steps == [(n, 6) for n in range(1, 7)]


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0, 3.7])
def test_scale_rounds_half_up(scale: float) -> None:
    result = run(photo(0, 0, 33, 21), Blurring(2), scale=scale)
    assert result.shape == (int(21 * scale + 0.5), int(33 * scale + 0.5), 3)


def test_result_too_large_for_its_format_is_refused_before_the_work() -> None:
    network = Blurring(2)
    with pytest.raises(InvalidInput, match="16383"):
        run(photo(0, 0, 8, 8).resize((9000, 1)), network, format="webp")
    assert network.calls == 0


def test_result_over_the_pixel_limit_is_refused_before_the_work() -> None:
    network = Blurring(2)
    with pytest.raises(TooLarge, match=r"64x32 = 2,048 pixels; at most 2,047"):
        run(photo(0, 0, 32, 16), network, limits=Settings(max_output_pixels=2047))
    assert network.calls == 0


def test_network_choice() -> None:
    assert {choose(name, None).label for name in model_names()} == {n.label for n in NETWORKS}
    assert [choose("animevideov3", s).scale for s in (None, 1, 2, 2.01, 3, 4, 8)] == [4, 2, 2, 3, 3, 4, 4]
    with pytest.raises(InvalidInput, match="x4plus"):
        choose("x5plus", None)


def test_tile_of_a_request_that_does_not_say_is_bounded_by_the_window_of_a_cpu() -> None:
    assert default_tile(LIMITS, 10, None) == 400
    assert default_tile(LIMITS, 10, 112) == 92
    assert default_tile(LIMITS, 0, 112) == 112
    assert default_tile(LIMITS, 100, 112) == 32
    assert default_tile(Settings(tile=64), 10, 112) == 64
    assert {n.label: default_tile(LIMITS, 10, n.window_cpu) for n in NETWORKS if n.scale == 4} == {
        "x4plus": 76,
        "x4plus-anime": 148,
        "animevideov3-x4": 260,
    }


def test_tile_that_is_named_is_used_on_a_cpu_too() -> None:
    image, network = photo(0, 0, 128, 128), Blurring(2)
    request = UpscaleRequest.parse({"model": "animevideov3-x2"}, LIMITS)
    result = asyncio.run(upscale(encoded(image), request, UpscaleContext(network=network, limits=LIMITS, window=84)))
    assert (result.tile, network.calls) == (64, 4)
    named = UpscaleRequest.parse({"model": "animevideov3-x2", "tile": 400}, LIMITS)
    result = asyncio.run(upscale(encoded(image), named, UpscaleContext(network=network, limits=LIMITS, window=84)))
    assert (result.tile, network.calls) == (128, 5)


def test_requests_are_frozen() -> None:
    request = UpscaleRequest.parse({}, LIMITS)
    assert (request.network.family, request.factor, request.tile, request.tile_pad) == ("x4plus", 4, None, 10)
    with pytest.raises(ValidationError, match="frozen"):
        request.tile = 1  # type: ignore[misc]
