"""Parameters as other programs write them, wherever they put them."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import pytest

from darkroom.containers.exif import comment
from darkroom.diffusion.schedulers import SCHEDULERS
from darkroom.errors import TooLarge
from darkroom.parameters import parse, read_image
from darkroom.pipelines.sd15.request import GenerateRequest
from darkroom.pipelines.sd15.settings import Settings
from tests.odd_files import exif, jpeg_with, jpegs, png_chunk, png_with, webp_with

TEXT = (
    "a cat\nNegative prompt: blurry\n"
    "Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 402, Size: 640x960"
)
READ = {
    "prompt": "a cat",
    "negative_prompt": "blurry",
    "steps": 28,
    "scheduler": "dpmpp_2m_karras",
    "guidance_scale": 7.0,
    "seed": 402,
    "width": 640,
    "height": 960,
    "other": {},
}


def text_chunk(keyword: str, text: bytes, **options: bool) -> bytes:
    return png_chunk(b"tEXt", keyword.encode() + b"\0" + text, **options)


def fields_of(text: str) -> dict[str, Any]:
    found = read_image(png_with(text_chunk("parameters", text.encode()))).fields
    assert found is not None
    return found


@pytest.mark.parametrize(
    "value",
    [
        '"a __pet__\nand a __thing__"',
        '"one\n\ntwo\nthree: 3, four: 4, five: 5"',
        "one\ntwo",
        '"ends with\n"',
        '"a\nSteps: 3"',
        '"quoted \\" and\nmore"',
    ],
)
@pytest.mark.parametrize("behind", ["", ", Version: v1.5.1", ', Lora hashes: "a: 1", TI hashes: "b: 2", Version: v1'])
def test_a_line_end_in_a_value(value: str, behind: str) -> None:
    fields = fields_of(f"{TEXT}, Wildcard prompt: {value}{behind}")
    other = fields.pop("other")
    version = fields.pop("version", None)
    assert fields == {name: value for name, value in READ.items() if name != "other"}
    assert other["Wildcard prompt"].startswith(value[1:4] if value[0] == '"' else "one")
    assert (version is not None) == ("Version" in behind)


def test_settings_in_a_prompt_stay_there() -> None:
    prompt = "Steps: 1, Seed: 2, CFG scale: 3, ab: 4\nmore"
    assert parse(f"{prompt}\nSteps: 9, Sampler: Euler, Seed: 5, Size: 64x64")["prompt"] == prompt
    few = "Steps: 3 of them\na cat"
    assert parse(few) == {"prompt": few, "negative_prompt": "", "other": {}}


SAMPLERS = (
    *("DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler"),
    *("LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++", "PLMS", "UniPC"),
    *("LCM", "DPM++ 2M Karras", "DPM++ 3M SDE Exponential", "DPM++ 2M SDE Karras", "DPM++ SDE Karras", "DEIS"),
    *(
        "FlowMatchEulerDiscreteScheduler",
        "Flow Euler",
        "DEISMultistepScheduler",
        "Euler A Turbo",
        "[Forge] Flux Realistic",
        "HeunPP2",
        "IPNDM",
        "euler_ancestral",
    ),
)
SCHEDULES = (
    *(None, "Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal", "Normal"),
    *("Align Your Steps", "Simple", "DDIM", "Beta", "Turbo", "Align Your Steps GITS"),
)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_fields_of_any_sampler_are_a_valid_request(sampler: str) -> None:
    for schedule in SCHEDULES:
        told = "" if schedule is None else f"Schedule type: {schedule}, "
        fields = fields_of(f"a cat\nSteps: 20, Sampler: {sampler}, {told}CFG scale: 1, Seed: 7, Size: 896x1152")
        assert GenerateRequest.parse(fields, Settings(max_pixels=2**24)).seed == 7
        if "scheduler" in fields:
            assert fields["scheduler"] in SCHEDULERS
            assert "unsupported" not in fields
        else:
            assert fields["sampler"] == sampler
            assert fields.get("schedule_type") == schedule
            assert fields["other"]["Sampler"] == sampler
            assert sampler in fields["unsupported"]["scheduler"]


@pytest.mark.parametrize(
    ("sampler", "schedule", "name"),
    [
        ("DPM++ 2M", "Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M", None, "dpmpp_2m"),
        ("DPM++ 2M", "Normal", "dpmpp_2m"),
        ("DPM++ 2M", "Automatic", "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", None, "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", "Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M SDE", "Karras", "dpmpp_2m_sde_karras"),
        ("DPM++ 2M SDE", "Automatic", None),
        ("Euler", "Beta", None),
        ("Euler", "Karras", "euler_karras"),
        ("Euler a", "Automatic", "euler_a"),
        ("Restart", "Karras", None),
        ("DDIM", "DDIM", "ddim"),
        ("Heun", "Automatic", "heun"),
    ],
)
def test_sampler_and_schedule(sampler: str, schedule: str | None, name: str | None) -> None:
    told = "" if schedule is None else f"Schedule type: {schedule}, "
    assert fields_of(f"a cat\nSteps: 20, Sampler: {sampler}, {told}CFG scale: 1").get("scheduler") == name


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("テスト 猫".encode(), "テスト 猫"),
        ("café".encode(), "café"),
        ("café".encode("latin-1"), "café"),
        ("😀 naïve".encode(), "😀 naïve"),
        (b"plain", "plain"),
        (b"caf\xe9 \xe7\x8c", "café ç\x8c"),
    ],
)
def test_texts_in_utf_8_and_in_latin_1(written: bytes, read: str, packed: bool) -> None:
    body = b"parameters\0" + (b"\0" + zlib.compress(written) if packed else written)
    assert read_image(png_with(png_chunk(b"zTXt" if packed else b"tEXt", body))).parameters == read


SWARM = {
    "sui_image_params": {
        **{"prompt": "a cat", "negativeprompt": "blurry", "model": "OfficialStableDiffusion/sd15", "seed": 581},
        **{"steps": 25, "cfgscale": 4.5, "width": 1024, "height": 768, "sampler": "dpmpp_2m", "scheduler": "karras"},
        "swarm_version": "0.5.9.0",
    },
    "sui_extra_data": {"date": "2026-01-01"},
}
FOOOCUS = {
    **{"adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "juggernautXL", "base_model_hash": "aeb7e9e689", "steps": 25},
    **{"guidance_scale": 4, "metadata_scheme": "fooocus", "negative_prompt": "blurry", "performance": "Speed"},
    **{"prompt": "a cat", "full_prompt": ["a cat", "x"], "resolution": "(1024, 768)", "sampler": "dpmpp_2m_sde_gpu"},
    **{"scheduler": "karras", "seed": "581", "styles": "['Fooocus V2']", "version": "Fooocus v2.5.5"},
}
INVOKE = {
    **{"positive_prompt": "a cat", "negative_prompt": "blurry", "width": 1024, "height": 768, "seed": 581},
    **{"cfg_scale": 5.5, "steps": 25, "scheduler": "euler", "model": {"name": "sd15"}, "app_version": "5.0.0"},
}
NOVEL = {
    **{"prompt": "a cat", "steps": 25, "height": 768, "width": 1024, "scale": 5.5, "uc": "blurry", "seed": 581},
    **{"sampler": "k_euler_ancestral", "noise_schedule": "karras"},
}


@pytest.mark.parametrize(
    ("chunks", "scheduler", "guidance"),
    [
        ({"parameters": SWARM}, "dpmpp_2m_karras", 4.5),
        ({"parameters": FOOOCUS, "fooocus_scheme": "fooocus"}, "dpmpp_2m_sde_karras", 4),
        ({"invokeai_metadata": INVOKE}, "euler", 5.5),
        ({"Comment": NOVEL, "Software": "NovelAI", "Description": "a cat"}, None, 5.5),
    ],
)
def test_json_of_other_programs(chunks: dict[str, Any], scheduler: str | None, guidance: float) -> None:
    texts = {key: value if isinstance(value, str) else json.dumps(value, indent=1) for key, value in chunks.items()}
    fields = read_image(png_with(*(text_chunk(key, text.encode()) for key, text in texts.items()))).fields
    assert fields is not None
    expected = {"prompt": "a cat", "negative_prompt": "blurry", "steps": 25, "seed": 581, "width": 1024, "height": 768}
    assert {name: fields[name] for name in expected} == expected
    assert fields["guidance_scale"] == guidance
    assert fields.get("scheduler") == scheduler
    assert ("unsupported" in fields) == (scheduler is None)
    assert all(isinstance(value, str) for value in fields["other"].values())
    GenerateRequest.parse(fields, Settings())


def test_fooocus_with_the_web_uis_text() -> None:
    text = (
        "a cat\nNegative prompt: blurry\nSteps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 123, Size: 1152x896, "
        'CFG scale: 4, Sharpness: 2, ADM Guidance: "(1.5, 0.8, 0.3)", Model: juggernaut, Model hash: aeb7e9e689, '
        "Performance: Speed, Scheduler: karras, VAE: Default (model), Version: Fooocus v2.5.5"
    )
    data = png_with(text_chunk("parameters", text.encode()), text_chunk("fooocus_scheme", b"a1111"))
    fields = read_image(data).fields
    assert fields is not None
    assert (fields["scheduler"], fields["seed"], fields["height"]) == ("dpmpp_2m_sde_karras", 123, 896)
    assert fields["version"] == "Fooocus v2.5.5"


@pytest.mark.parametrize(
    "text", ['{"1": {"class_type": "KSampler"}}', "[1, 2]", '{"version": 1, "nodes": []}', "{}", '{"seed": "x"}']
)
def test_other_json_is_no_prompt(text: str) -> None:
    info = read_image(png_with(text_chunk("parameters", text.encode()), text_chunk("workflow", b"{}")))
    assert (info.fields, info.parameters) == (None, text)


def test_a_prompt_in_braces_is_one() -> None:
    assert fields_of("{a|b} cat")["prompt"] == "{a|b} cat"
    assert fields_of('{"a": 1}\nSteps: 3, Seed: 4, CFG scale: 5')["prompt"] == '{"a": 1}'


COMMENTS = {
    "utf-16-be": b"UNICODE\0" + TEXT.encode("utf-16-be"),
    "utf-16-le": b"UNICODE\0" + TEXT.encode("utf-16-le"),
    "bom": b"UNICODE\0" + TEXT.encode("utf-16"),
    "ascii": b"ASCII\0\0\0" + TEXT.encode() + b"\0",
    "undefined": bytes(8) + TEXT.encode(),
    "bare": TEXT.encode(),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", COMMENTS)
def test_a_comment_in_any_encoding_and_byte_order(name: str, order: Any) -> None:
    block = exif(order=order, comment=COMMENTS[name])
    for data in (
        jpeg_with((0xE1, b"Exif\0\0" + block)),
        webp_with((b"EXIF", block)),
        webp_with((b"EXIF", b"Exif\0\0" + block)),
        png_with(png_chunk(b"eXIf", block)),
    ):
        info = read_image(data)
        assert (info.parameters, info.fields) == (TEXT, READ)


@pytest.mark.parametrize("text", ["一隻貓與一塊披薩", "ネコ\nSteps: 3", "кошка", "고양이 😀", "猫", "a"])
@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_the_byte_order_is_told_by_the_text(text: str, order: str) -> None:
    assert comment(b"UNICODE\0" + text.encode(order)) == text


def test_a_wrong_checksum_elsewhere_does_not_cost_the_parameters() -> None:
    for kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"gAMA", b"abCd"):
        damaged, whole = png_chunk(kind, b"Comment\0x", wrong=True), text_chunk("parameters", TEXT.encode())
        for data in (png_with(damaged, whole), png_with(whole, damaged)):
            assert read_image(data).fields == READ


@pytest.mark.parametrize("name", jpegs())
def test_a_jpeg_without_its_end_says_what_it_says(name: str) -> None:
    assert read_image(jpegs()[name][:-2]).fields is None


def test_an_exif_of_numbers_that_lead_nowhere() -> None:
    pointer = struct.pack("<HHHII", 1, 0x8769, 4, 1, 2**32 - 1)
    assert read_image(jpeg_with((0xE1, b"Exif\0\0II*\0\x08\0\0\0" + pointer))).chunks == {}


def test_a_comment_of_any_size_is_no_answer() -> None:
    with pytest.raises(TooLarge, match="1,048,576"):
        read_image(webp_with((b"EXIF", exif(comment=b"ASCII\0\0\0" + b"x" * (1 << 20) + b"y"))))


@pytest.mark.parametrize("value", ["1" * 400, "1e999", '"' + "9" * 90 + '"', "true", "[]", "null", "-1e30"])
def test_numbers_of_json_that_are_none(value: str) -> None:
    text = f'{{"prompt": "a cat", "seed": {value}, "steps": {value}, "cfgscale": {value}, "size": {value}}}'
    fields = read_image(png_with(text_chunk("parameters", text.encode()))).fields
    assert fields is None or fields.keys() == {"prompt", "negative_prompt", "other"}
