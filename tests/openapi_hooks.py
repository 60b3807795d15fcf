"""Hooks of schemathesis: what a JSON schema cannot say of our fields, and where the contract wants to be lenient.

Loaded by its command line through SCHEMATHESIS_HOOKS; `tests/contract/test_openapi.py` runs it.
"""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies as st
from jsonschema_rs import validator_for
from PIL import Image
from safetensors.numpy import save
from schemathesis.transport.serialization import Binary

from benchmarks.machine import ROOT
from darkroom.serving.lora_layout import LoraLayout

_GROUPS = (
    ("control_image", "image", "image_base64", "reference_image"),
    ("steps", "num_inference_steps"),
    ("num_images", "num_images_per_prompt"),
    ("init_image", "init_images"),
    ("mask", "mask_image"),
    ("strength", "denoising_strength"),
)
"""Names of one field each: two of them with different values are refused."""
_MASKS = _GROUPS[4]
_IMAGE_NAMES = ("file", "controlnet_image", *_GROUPS[0], *_GROUPS[3], *_MASKS)
_EDITS = (
    *("/edit", "/edit/json", "/edit/multi", "/multi-image-editing"),
    *("/v1/images/edits", "/v1/images/variations"),
)
_WITHOUT_FILES = ("/tasks", *_EDITS)
"""Their forms have "oneOf", and so no files."""
_PAIRS = (
    ("low_threshold", "high_threshold", (100, 200)),
    ("control_guidance_start", "control_guidance_end", (0, 0.5)),
)
"""Of two fields the second one may not be below the first."""
_PRIOR = {"prior_images": 2, "prior_prompts": '["a dog"]'}
"""One of these is refused without the other."""
_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?\s*", re.I)
_WITHOUT_EFFECT = ("background", "moderation", "style", "input_fidelity", "user", "safety_identifier")
"""Fields of OpenAI's that may be any text."""
_TEXTS = {"prompt", "negative_prompt", *_IMAGE_NAMES, *_WITHOUT_EFFECT}
_REQUIRED = {"prompt", "negative_prompt"}
_VOCABULARIES = {
    *("scheduler", "control_type", "format", "model", "enlarge_model", "size", "operation", "priority"),
    *("response_format", "output_format"),
    *("sampler_name", "sampler_index", "script_name", "hr_upscaler", "upscaler_1", "upscaler_2", "sd_model_checkpoint"),
}
_WEB_UI = "/sdapi"
_WEB_UI_FIELDS: dict[str, Any] = {
    **{
        "n_iter": 1,
        "batch_size": 1,
        "steps": 1,
        "width": 64,
        "height": 64,
        "enable_hr": False,
        "script_name": "",
        "sd_model_checkpoint": "",
    },
    **{"sampler_name": "Euler", "sampler_index": "Euler", "scheduler": "Automatic", "hr_upscaler": "Latent"},
    **{"override_settings": {}, "alwayson_scripts": {}, "upscaler_1": "Lanczos", "upscaler_2": "None"},
    **{"upscaling_resize_w": 16, "upscaling_resize_h": 16},
}
"""Right values of fields there whose right values no schema knows."""


def _lora() -> bytes:
    """A LoRA file of rank 1 for one module of the demo checkpoint."""
    layout = LoraLayout.read(ROOT / "model_repository" / "sd15_unet" / "1")
    assert layout is not None
    target = next(one for one in layout.targets if one.kind == "linear")
    shapes = {"A": (1, target.in_features), "B": (target.out_features, 1)}
    name = f"unet.{target.name}.lora"
    return save({f"{name}_{part}.weight": np.ones(shape, np.float32) for part, shape in shapes.items()})


_LORA = _lora()
_TRUTHS = {
    *("randomize_seed", "control_preprocess", "override_settings_restore_afterwards", "send_images", "enable_hr"),
    *("include_init_images", "upscaling_crop", "stream", "strict_size"),
}
_TRUE = {"true", "1", "yes", "on", "t", "y"}
_WORDS = {*_TRUE, "false", "0", "no", "off", "f", "n"}


def _image(color: int, side: int) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (side, side), (color, 40, 200)).save(made, "PNG")
    return made.getvalue()


schemathesis.openapi.format("binary", st.builds(_image, st.integers(0, 255), st.integers(1, 16)))


def _text(image: bytes) -> str:
    return base64.b64encode(image).decode()


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Schemathesis 4.32 cannot generate files where a form has "oneOf"; these take base64 there as well."""
    forms = [schema for name, schema in raw_schema["components"]["schemas"].items() if name.endswith("TaskForm")]
    for path in _EDITS:
        forms.append(raw_schema["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"])
    for schema in forms:
        for described in schema["properties"].values():
            described.pop("format", None)
            described.get("items", {}).pop("format", None)


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Make right what is right by the schema, but for rules between fields, and for images, which no schema knows."""
    if case.meta is None or not case.meta.generation.mode.is_positive or not isinstance(case.body, dict):
        return
    body = dict(case.body)
    if isinstance(body.get("requests"), list):
        case.body = {**body, "requests": [_mended(one, case) for one in body["requests"]]}
    else:
        case.body = _mended(body, case)


def _mended(given: Any, case: schemathesis.Case) -> Any:
    if not isinstance(given, dict):
        return given
    body = {name: value for name, value in given.items() if value is not None}
    for group in _GROUPS:
        for name in [name for name in group if name in body][1:]:
            del body[name]
    if case.media_type != "multipart/form-data" or case.operation.path in _WITHOUT_FILES:
        body |= {name: _text(_image(90, 8)) for name in _IMAGE_NAMES if name in body}
        body |= {name: [_text(_image(90, 8))] for name in ("images",) if name in body}
        body |= {name: _text(_LORA) for name in ("lora_base64",) if name in body}
    if case.operation.path.startswith(_WEB_UI):
        return _for_web_ui(body, case.operation.path)
    return _quick(_with_texts(_with_loras(_in_order(body), case)), case.operation.path)


def _in_order(body: dict[str, Any]) -> dict[str, Any]:
    """The same with fields that fit together."""
    for low, high, bounds in _PAIRS:
        if low in body or high in body:
            body[low], body[high] = bounds
    if body.get("use_lora") and not body.get("session_id"):
        body["session_id"] = "1"
    if not any(name in body for name in _GROUPS[3]):  # a mask says where an image is changed
        body = {name: value for name, value in body.items() if name not in _MASKS}
    if "enlarge" not in body:
        body.pop("enlarge_model", None)
    return body


def _for_web_ui(given: dict[str, Any], path: str) -> dict[str, Any]:
    """A small request that names only what is there. Images are there already, in base64."""
    body = {name: _WEB_UI_FIELDS.get(name, value) for name, value in given.items()}
    if path.endswith("2img"):
        body |= {name: _WEB_UI_FIELDS[name] for name in ("width", "height")}
    if "init_images" in body:
        body["init_images"] = [_text(_image(90, 8))]
    if "imageList" in body:
        body["imageList"] = [{"data": _text(_image(90, 8)), "name": "a.png"}]
    return body


def _with_texts(body: dict[str, Any]) -> dict[str, Any]:
    """The same with lists of texts in their JSON, which is what a text stands for in these fields."""
    prior = _PRIOR if _PRIOR.keys() & body.keys() else {}
    samples = {"sample_prompts": '["a cat"]'} if "sample_prompts" in body else {}
    return {**body, **prior, **samples}


def _with_loras(body: dict[str, Any], case: schemathesis.Case) -> dict[str, Any]:
    """The same with a LoRA file that fits, and without naming LoRAs, of which there are none."""
    if "loras" in body:
        body["loras"] = "[]"
    if case.operation.path == "/loras":
        body["file"] = Binary(_LORA) if case.media_type == "multipart/form-data" else _text(_LORA)
    return body


def _quick(body: dict[str, Any], path: str) -> dict[str, Any]:
    """The same with small images, for the sake of time."""
    if path.endswith("submit"):
        body["resolution"] = "512x512"
    elif "prompt" in body or path.startswith("/v1/"):
        body |= {"width": 64, "height": 96}
        body.pop("size", None)
        body |= {"n": 2} if "n" in body else {}
    if str(body.get("model", "")).startswith("x4plus"):
        body["model"] = "animevideov3"
    return body


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext, failure: Any, case: schemathesis.Case, response: schemathesis.Response
) -> bool:
    """Whether a failure is one. To take what the schema forbids is none where the contract is lenient on purpose:
    numbers and truth values as text, words in any case, and "" or null for what is left out. The body without that has
    to be right by the schema all the same."""
    if type(failure).__name__ != "AcceptedNegativeData" or not isinstance(case.body, dict):
        return True
    document = case.operation.schema.raw_schema
    schema = document["paths"][case.operation.path][case.operation.method.lower()]["requestBody"]["content"]
    wanted = {**schema[case.media_type]["schema"], "components": document["components"]}
    return not validator_for(wanted).is_valid(_strict(case.body))


def _strict(body: dict[str, Any]) -> dict[str, Any]:
    """What a lenient body means."""
    requests = body.get("requests")
    if isinstance(requests, list):
        return {"requests": [_strict(one) if isinstance(one, dict) else one for one in requests]}
    given = {name: value for name, value in body.items() if value is not None and value != []}  # no part of a form
    kept = {
        name: value for name, value in given.items() if isinstance(value, Binary) or value != "" or name in _REQUIRED
    }
    return {name: _value(name, value) for name, value in kept.items()}


def _value(name: str, value: Any) -> Any:
    """A number or a truth value for the text of one."""
    if isinstance(value, list):
        return [_value(name, one) for one in value]
    if isinstance(value, Binary):
        return ""
    if name in _TRUTHS and not isinstance(value, bool) and value in (0, 1):
        return bool(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str) or name in _TEXTS:
        return value
    word = value.strip().lower()
    if name in _TRUTHS:
        return word in _TRUE if word in _WORDS else word
    if name not in _VOCABULARIES and _NUMBER.fullmatch(word):
        number = float(word)
        return int(number) if number.is_integer() else number
    return word
