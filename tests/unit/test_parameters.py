"""Parameters in pictures: written, read back, and read from other programs' files."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo as PillowText

from darkroom.diffusion.lora.tags import take_loras
from darkroom.errors import NotAnImage
from darkroom.images import Picture, encode
from darkroom.parameters import parse, read_image, read_png, text_chunks
from darkroom.png import encode_png

PIXELS = np.zeros((4, 4, 3), np.uint8)
DETAILS: dict[str, Any] = {
    "prompt": "a cat on a blue background",
    "negative_prompt": "",
    "steps": 20,
    "scheduler": "dpmpp_2m_karras",
    "guidance_scale": 7.5,
    "seed": 1,
    "width": 512,
    "height": 256,
    "model": "demo-sd15",
    "model_hash": "0123456789",
    "index": 0,
    "version": "0.1.0",
}
CONTROL = {
    "control_type": "canny",
    "low_threshold": 50,
    "high_threshold": 150,
    "controlnet_conditioning_scale": 0.75,
    "control_guidance_start": 0.0,
    "control_guidance_end": 0.5,
}
PROMPTS = (
    "a cat",
    "a cat, (a dog:1.3), Steps: 3",
    "two\nlines: of, it",
    "一隻貓與一塊披薩 😀",
    'she said "no", and: left',
    "café",
    "",
)


def test_loras_are_tags_as_web_uis_write_them() -> None:
    cat, other, odd = (digit * 64 for digit in "abc")
    loras = [{"name": "cat", "digest": cat, "weight": 0.8}, {"digest": other, "weight": -1.0}]
    loras.append({"name": "odd: <name>", "digest": odd, "weights_by_step": [1.0, 0.0]})
    details = {**DETAILS, "loras": loras, "lora_files": [{"name": "cat"}]}
    info = read_png(encode_png(PIXELS, text=text_chunks(details)))
    assert info.details == details
    tags = f"<lora:cat:0.8> <lora:{other}:-1> <lora:{odd}:1>"
    assert info.parameters is not None
    assert info.parameters.startswith(f"{DETAILS['prompt']} {tags}\nSteps: 20, ")
    assert f'Lora hashes: "cat: aaaaaaaaaa, {other}: bbbbbbbbbb, {odd}: cccccccccc"' in info.parameters
    assert info.fields is not None
    prompt, read = take_loras(info.fields["prompt"])
    assert prompt.strip() == DETAILS["prompt"]
    assert [(one.reference, one.weight) for one in read] == [
        (("name", "cat"), 0.8),
        (("digest", other), -1.0),
        (("digest", odd), 1.0),
    ]


@pytest.mark.parametrize("negative", ["", "blurry", "差, bad:\nworse"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_round_trip_through_a_png(prompt: str, negative: str) -> None:
    details = {**DETAILS, "prompt": prompt, "negative_prompt": negative, "model": 'odd, "model": name', **CONTROL}
    info = read_png(encode_png(PIXELS, text=text_chunks(details)))
    assert info.details == details
    expected = {name: value for name, value in details.items() if name != "index"}
    assert info.fields == {**expected, "other": {}}


def test_the_text_is_the_web_uis() -> None:
    text = text_chunks({**DETAILS, "negative_prompt": "blurry"})["parameters"]
    assert text == (
        "a cat on a blue background\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 1, Size: 512x256, Model hash: 0123456789, "
        "Model: demo-sd15, Version: Darkroom 0.1.0"
    )
    control = text_chunks({**DETAILS, **CONTROL})["parameters"]
    assert 'ControlNet 0: "Module: canny, Weight: 0.75, Threshold A: 50, Threshold B: 150, ' in control


@pytest.mark.parametrize("prompt", PROMPTS)
def test_pillow_reads_ours(prompt: str) -> None:
    chunks = text_chunks({**DETAILS, "prompt": prompt})
    with Image.open(io.BytesIO(encode_png(PIXELS, text=chunks))) as image:
        assert image.info["parameters"] == chunks["parameters"]
        assert json.loads(image.info["darkroom"])["prompt"] == prompt


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS[:-1])
def test_we_read_pillows(prompt: str, compressed: bool) -> None:
    text = PillowText()
    text.add_text("parameters", prompt, zip=compressed)
    text.add_itxt("Title", prompt, lang="en", tkey="title", zip=compressed)
    target = io.BytesIO()
    Image.fromarray(PIXELS).save(target, "PNG", pnginfo=text)
    assert read_png(target.getvalue()).chunks == {"parameters": prompt, "Title": prompt}


@pytest.mark.parametrize("negative", ["", "差, bad:\nworse"])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_round_trip_through_exif(format: Any, prompt: str, negative: str) -> None:
    details = {**DETAILS, "prompt": prompt, "negative_prompt": negative, **CONTROL}
    info = read_image(encode(Picture(rgb=PIXELS), format=format, quality=80, text=text_chunks(details)))
    assert info.details == details
    assert info.chunks == text_chunks(details)
    assert info.fields == {**{name: value for name, value in details.items() if name != "index"}, "other": {}}


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_other_formats_carry_the_text_as_their_comment(format: Any) -> None:
    chunks = text_chunks({**DETAILS, "prompt": PROMPTS[3]})
    with Image.open(io.BytesIO(encode(Picture(rgb=PIXELS), format=format, quality=80, text=chunks))) as image:
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment == b"UNICODE\0" + chunks["parameters"].encode("utf-16-be")


def test_a_jpeg_without_room_for_the_text_is_still_a_jpeg() -> None:
    data = encode(Picture(rgb=PIXELS), format="jpeg", quality=80, text={"parameters": "x" * 40_000})
    assert data.startswith(b"\xff\xd8")
    assert read_image(data).chunks == {}
    both = {"parameters": "x" * 20_000, "darkroom": json.dumps({"prompt": "x" * 30_000})}
    assert read_image(encode(Picture(rgb=PIXELS), format="jpeg", quality=80, text=both)).chunks.keys() == {"parameters"}


def test_a_picture_of_the_web_ui() -> None:
    """As version 1.10 with its ControlNet extension writes them."""
    fields = parse(
        "masterpiece, <lora:x:0.8>\r\nsecond line\n"
        "Negative prompt: (worst quality:1.4), EasyNegative,\nlowres\n"
        "Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 4026531840, Size: 640x960, "
        "Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, VAE hash: 735e4c3a44, Denoising strength: 0.4, "
        'ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1.0, '
        "Resize Mode: Crop and Resize, Threshold A: 100.0, Threshold B: 200.0, Guidance Start: 0.0, "
        'Guidance End: 1.0", '
        'Lora hashes: "x: 1234, y: 5678", TI hashes: "EasyNegative: c74b4e810b03", Version: v1.10.1'
    )
    other = fields.pop("other")
    assert fields == {
        "prompt": "masterpiece, <lora:x:0.8>\nsecond line",
        "negative_prompt": "(worst quality:1.4), EasyNegative,\nlowres",
        "steps": 28,
        "scheduler": "dpmpp_2m_karras",
        "guidance_scale": 7.0,
        "seed": 4026531840,
        "width": 640,
        "height": 960,
        "model_hash": "6ce0161689",
        "model": "v1-5-pruned-emaonly",
        "version": "v1.10.1",
        "strength": 0.4,
        "control_type": "canny",
        "controlnet_conditioning_scale": 1.0,
        "low_threshold": 100,
        "high_threshold": 200,
        "control_guidance_start": 0.0,
        "control_guidance_end": 1.0,
    }
    assert other["Lora hashes"] == "x: 1234, y: 5678"
    assert "control_v11p_sd15_canny [d14c016b]" in other["ControlNet 0"]  # not lost, though we have no name for it


@pytest.mark.parametrize("text", ["a cat", "a cat\na: b, cc: d", "", "one, two: three"])
def test_a_text_without_parameters_is_a_prompt(text: str) -> None:
    assert parse(text) == {"prompt": text, "negative_prompt": "", "other": {}}


def test_values_that_are_none_stay_text() -> None:
    fields = parse("p\nSteps: many, CFG scale: nan, Seed: 1e999, Size: big, Sampler: DPM++ SDE, Model: x")
    assert "scheduler" not in fields
    assert (fields["sampler"], fields["unsupported"]) == ("DPM++ SDE", {"scheduler": "DPM++ SDE"})
    others = {"Steps": "many", "CFG scale": "nan", "Seed": "1e999", "Size": "big", "Sampler": "DPM++ SDE"}
    assert fields["other"] == others


@pytest.mark.parametrize(
    "hostile",
    [" " * 500_000, "a" * 500_000, "ab: " * 100_000, 'ab:"' * 100_000, '"\\' * 200_000, "ab:,\t" * 90_000],
)
def test_hostile_texts_take_no_time(hostile: str) -> None:
    started = time.process_time()
    parse("Steps: 1, Seed: 2, CFG scale: 3, x " + hostile)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "value", ["[1]", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "[" * 100_000, "no", '{"a": ' + "9" * 5000 + "}"]
)
def test_foreign_json_that_cannot_be_answered_is_left_out(value: str) -> None:
    assert read_png(encode_png(PIXELS, text={"darkroom": value})).details is None


def test_half_a_surrogate_pair_in_quotes_stays_as_it_is() -> None:
    assert parse('p\nSteps: 1, Seed: 2, Model: "\\ud800"')["model"] == '"\\ud800"'


def test_zero_bytes_stay_in_the_json_alone() -> None:
    info = read_png(encode_png(PIXELS, text=text_chunks({**DETAILS, "prompt": "a\0b"})))
    assert info.details is not None
    assert info.details["prompt"] == "a\0b"
    assert info.fields is not None
    assert info.fields["prompt"] == "ab"


def test_a_png_without_parameters() -> None:
    info = read_png(encode_png(PIXELS))
    assert (info.chunks, info.parameters, info.fields, info.details) == ({}, None, None, None)


def test_a_jpeg_is_no_png() -> None:
    with pytest.raises(NotAnImage, match="not a PNG"):
        read_png(encode(Picture(rgb=PIXELS), format="jpeg", quality=80))
    with pytest.raises(NotAnImage, match="not a PNG, JPEG or WebP"):
        read_image(b"BM" + bytes(60))
