"""Results as large as what was sent, in their place, and untouched where the mask says so."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from darkroom.images import Pixels
from darkroom.pipelines.qwen_edit.canvas import Canvas, condition_size
from darkroom.pipelines.qwen_edit.finish import Finish, displacement, moved, whole_move

MEGAPIXEL = 1024 * 1024


def photo(width: int, height: int, seed: int = 0) -> Pixels:
    """Soft noise, which has details of all sizes."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)))


def finish(original: Pixels, *, repaint: NDArray[np.bool_] | None = None, align: bool = True) -> Finish:
    height, width = original.shape[:2]
    return Finish(canvas=Canvas.of(width, height, MEGAPIXEL), original=original, repaint=repaint, align=align)


@pytest.mark.parametrize("size", [(64, 64), (90, 70), (17, 300), (1, 1), (1023, 1001)])
def test_qwen_edit_canvas_is_padded_and_cut_without_a_change(size: tuple[int, int]) -> None:
    canvas = Canvas.of(*size, MEGAPIXEL)
    image = photo(*size)
    framed = canvas.frame(image)
    assert framed.shape == (canvas.outer_height, canvas.outer_width, 3)
    assert canvas.outer_height % 16 == canvas.outer_width % 16 == 0
    assert np.array_equal(canvas.cut(framed), image)


@pytest.mark.parametrize("size", [(2000, 1500), (16384, 100), (5000, 20), (1025, 1024)])
def test_qwen_edit_canvas_of_a_large_image_is_smaller(size: tuple[int, int]) -> None:
    canvas = Canvas.of(*size, MEGAPIXEL)
    assert canvas.outer_width * canvas.outer_height <= MEGAPIXEL
    assert canvas.inner_width / canvas.inner_height == pytest.approx(size[0] / size[1], rel=0.1)
    made = np.zeros((canvas.outer_height, canvas.outer_width, 3), np.uint8)
    assert canvas.cut(made).shape == (size[1], size[0], 3)


def test_qwen_edit_canvas_frames_images_of_any_size_alike() -> None:
    canvas = Canvas.of(90, 70, MEGAPIXEL)
    assert (canvas.outer_width, canvas.outer_height) == (96, 80)
    assert canvas.frame(photo(900, 700)).shape == (800, 960, 3)


@pytest.mark.parametrize(("size", "expected"), [((1024, 768), (1184, 896)), ((100, 100), (1024, 1024))])
def test_qwen_edit_conditions_are_as_large_as_in_diffusers(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert condition_size(photo(*size), MEGAPIXEL) == expected
    assert condition_size(photo(400, 2), 4096) == (896, 32)


@pytest.mark.parametrize("move", [(3, 0), (-2, 4), (0, -3)])
def test_qwen_edit_result_is_moved_back(move: tuple[int, int]) -> None:
    original = photo(160, 128)
    shifted = np.roll(original, (move[1], move[0]), axis=(0, 1))
    found = displacement(original, shifted)
    assert found == pytest.approx(move, abs=0.2)
    inside = np.s_[10:-10, 10:-10]
    result, details = finish(original)(shifted)
    assert details["displacement"] == pytest.approx(move, abs=0.2)
    assert np.array_equal(result[inside], original[inside])
    kept, none = finish(original, align=False)(shifted)
    assert np.array_equal(kept, shifted)
    assert none == {}


ODD_SIZES = [(101 + 37 * k % 160 | 1, 99 + 53 * k % 140 | 1) for k in range(20)]
MOVES = [(0, 0), (0.3, -0.4), (1.2, -2.3), (-2.7, 1.4), (3, 2), (-0.8, 0.9)]


def board(width: int, height: int, side: int) -> Pixels:
    """A checkerboard with squares of `side` pixels."""
    down, right = np.indices((height, width)) // side
    return np.where(((right + down) % 2 == 1)[..., None], [230, 225, 220], [25, 30, 40]).astype(np.uint8)


def made_of(image: Pixels, move: tuple[float, float]) -> Pixels:
    """An image as a model draws it again: moved, between pixels too, and with a little noise."""
    height, width = image.shape[:2]
    matrix = np.array([[1, 0, move[0]], [0, 1, move[1]]], np.float32)
    drawn = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    noise = np.random.default_rng(7).integers(-6, 7, drawn.shape)
    return np.clip(drawn.astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", [9, 16])
@pytest.mark.parametrize("size", ODD_SIZES)
def test_qwen_edit_checkerboard_is_less_than_half_a_pixel_off(size: tuple[int, int], side: int) -> None:
    original = board(*size, side)
    framed = Canvas.of(*size, MEGAPIXEL).frame(original)
    repaint = np.zeros(original.shape[:2], bool)
    repaint[10:50, 20:70] = True
    for move in MOVES:
        result, details = finish(original, repaint=repaint)(made_of(framed, move))
        assert result.shape == original.shape
        left = [asked - found for asked, found in zip(move, details["displacement"], strict=True)]
        assert max(map(abs, left)) < 0.5, (move, details)
        assert np.array_equal(result[~repaint], original[~repaint]), "byte for byte outside of the mask"


@pytest.mark.parametrize("move", [(7, -5), (-12, 3), (1, 0), (0, 0)])
def test_qwen_edit_large_result_is_moved_back_to_the_pixel(move: tuple[int, int]) -> None:
    """Images above a megapixel are compared at a smaller size."""
    small = photo(240, 180)
    original = cv2.resize(small, (2401, 1799), interpolation=cv2.INTER_CUBIC)
    shifted = np.roll(original, (move[1], move[0]), axis=(0, 1))
    found = displacement(original, shifted)
    assert found == pytest.approx(move, abs=1)
    assert whole_move(original, shifted, found) == move


def test_qwen_edit_result_is_moved_by_whole_pixels() -> None:
    image = photo(20, 10)
    assert np.array_equal(moved(image, (0.4, -0.3)), image)
    assert np.array_equal(moved(image, (2.1, -0.9))[1:, :-2], image[:-1, 2:])


def test_qwen_edit_result_that_shows_something_else_is_not_moved() -> None:
    original, other = photo(160, 128), photo(160, 128, seed=1)
    assert displacement(original, other) == (0.0, 0.0)
    result, details = finish(original)(other)
    assert np.array_equal(result, other)
    assert details["displacement"] == [0.0, 0.0]
    far = np.roll(original, 40, axis=1)
    assert displacement(original, far) == (0.0, 0.0)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 2), (16, 16)])
def test_qwen_edit_result_of_a_tiny_image(size: tuple[int, int]) -> None:
    image = photo(*size)
    result, _ = finish(image)(Canvas.of(*size, MEGAPIXEL).frame(image))
    assert result.shape == image.shape


def test_qwen_edit_result_outside_the_mask_is_the_original_byte_for_byte() -> None:
    original, made = photo(90, 70), photo(96, 80, seed=1)
    repaint = np.zeros((70, 90), bool)
    repaint[20:40, 30:60] = True
    result, _ = finish(original, repaint=repaint)(made)
    assert np.array_equal(result[~repaint], original[~repaint])
    assert np.array_equal(result[repaint], made[:70, :90][repaint])
