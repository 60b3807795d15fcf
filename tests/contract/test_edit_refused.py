"""What the editing endpoints refuse, and the modes of editing. None of this needs a model, so no Triton runs here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from darkroom.edit_modes.modes import MODES
from tests.contract.editing import BASE64, OTHER, PHOTO, QUICK, TEXT, form
from tests.contract.generating import named
from tests.service import running_proxy

ONE, TWO = (("images", PHOTO),), (("images", PHOTO), ("images", OTHER))
CONTROL = (*ONE, ("controlnet_image", OTHER))


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a proxy without Triton: a request that is not refused is answered 503."""
    folder = tmp_path_factory.mktemp("edit")
    with (
        running_proxy(folder, model_repository=folder / "none") as proxy,
        httpx.Client(base_url=proxy.url, timeout=60) as client,
    ):
        yield client


def test_edit_modes_are_listed(http: httpx.Client) -> None:
    answer = http.get("/edit-modes")
    assert answer.status_code == 200
    assert answer.json() == [mode.to_json() for mode in MODES.values()]
    assert answer.json()[0] == {
        "mode": 1,
        "name": "人物 + 人物",
        "description": "將兩個人物合併到同一個場景中",
        "requires_multiple_images": True,
        "requires_controlnet": False,
        "requires_text_params": False,
        "min_images": 2,
        "max_images": 5,
    }


@pytest.mark.parametrize("mode", MODES)
def test_edit_mode_by_its_number(http: httpx.Client, mode: int) -> None:
    answer = http.get(f"/edit-mode/{mode}")
    assert (answer.status_code, answer.json()) == (200, MODES[mode].to_json())


@pytest.mark.parametrize("mode", ["0", "17", "-1", "1.5", "one", "9" * 5000])
def test_edit_mode_out_of_range_is_refused(http: httpx.Client, mode: str) -> None:
    named(http.get(f"/edit-mode/{mode}"), 422, "mode", ("from 1 to 16",))


@pytest.mark.parametrize(
    ("path", "images", "fields", "param", "words"),
    [
        ("/edit", (), {}, "image", ("image is missing",)),
        ("/edit", (("image", PHOTO),), {"prompt": None}, "prompt", ("prompt is missing",)),
        ("/edit", (("image", PHOTO),), {"true_guidance_scale": 0.5}, "true_guidance_scale", ("1", "10", "0.5")),
        ("/edit", (("image", PHOTO),), {"true_guidance_scale": 10.5}, "true_guidance_scale", ("1", "10", "10.5")),
        ("/edit", (("image", PHOTO),), {"num_inference_steps": 51}, "num_inference_steps", ("1", "50", "51")),
        ("/edit", (("image", PHOTO),), {"num_inference_steps": "x"}, "num_inference_steps", ("1", "50", "'x'")),
        ("/edit", (("image", PHOTO),), {"num_images_per_prompt": 5}, "num_images_per_prompt", ("1", "4", "5")),
        ("/edit", (("image", PHOTO),), {"seed": -2}, "seed", ("-2",)),
        ("/edit", (("image", PHOTO), ("mask", OTHER)), {"width": 640}, "mask", ("96x80",)),
        ("/edit", (("image", PHOTO), ("images", OTHER)), {}, "image", ("names of one field",)),
        ("/edit", (("images", PHOTO),) * 6, {}, "images", ("1 to 5 images", "6")),
        ("/edit", (("image", PHOTO),), {"text_params_json": TEXT}, "mode", ("mode is missing", "text_params_json")),
        ("/edit", (("image", PHOTO), ("controlnet_image", OTHER)), {}, "mode", ("controlnet_image",)),
        ("/edit/json", (), {"image_base64": "cat.png"}, "image_base64", ("base64", "cat.png")),
        ("/edit/json", (), {"image_base64": "data:image/png,x"}, "image_base64", ("data:image/",)),
        ("/edit/json", (), {}, "image_base64", ("image_base64 is missing",)),
        ("/edit/multi", (), {}, "images", ("images is missing",)),
        ("/edit/multi", (("images", PHOTO),) * 4, {}, "images", ("1 to 3 images", "4")),
        ("/edit/multi", TWO, {"guidance_scale": 0}, "guidance_scale", ("1", "10", "0")),
        ("/edit/multi", TWO, {"guidance_scale": 11}, "guidance_scale", ("1", "10", "11")),
        ("/multi-image-editing", TWO, {}, "mode", ("mode is missing",)),
        ("/multi-image-editing", TWO, {"mode": 0}, "mode", ("from 1 to 16", "0")),
        ("/multi-image-editing", TWO, {"mode": 17}, "mode", ("from 1 to 16", "17")),
        ("/multi-image-editing", TWO, {"mode": "one"}, "mode", ("from 1 to 16", "'one'")),
        ("/multi-image-editing", TWO, {"mode": 1.5}, "mode", ("1.5",)),
        ("/multi-image-editing", (), {"mode": 1}, "images", ("images is missing",)),
        ("/multi-image-editing", ONE, {"mode": 1}, "images", ("2 to 5 images", "mode 1", "got 1")),
        ("/multi-image-editing", (("images", PHOTO),) * 6, {"mode": 5}, "images", ("1 to 5", "6")),
        ("/multi-image-editing", TWO, {"mode": 8}, "images", ("1 image", "mode 8", "got 2")),
        ("/multi-image-editing", TWO, {"mode": 2, "prompt": None}, "prompt", ("prompt is missing",)),
        ("/multi-image-editing", ONE, {"mode": 9}, "text_params_json", ("mode 9", "old_text and new_text")),
        (
            "/multi-image-editing",
            ONE,
            {"mode": 9, "text_params_json": '{"old_text": "a"}'},
            "text_params_json.new_text",
            ("text_params_json.new_text is missing",),
        ),
        ("/multi-image-editing", ONE, {"mode": 10}, "text_params_json", ("new_text",)),
        ("/multi-image-editing", ONE, {"mode": 11}, "text_params_json", ("font_type",)),
        ("/multi-image-editing", ONE, {"mode": 12}, "text_params_json", ("color",)),
        ("/multi-image-editing", ONE, {"mode": 9, "text_params_json": "{"}, "text_params_json", ("JSON", "'{'")),
        (
            "/multi-image-editing",
            ONE,
            {"mode": 12, "text_params_json": '{"color": 5}'},
            "text_params_json.color",
            ("valid string", "5"),
        ),
        (
            "/multi-image-editing",
            TWO,
            {"mode": 1, "additional_params_json": '{"positions": ["a", "b", "c"]}'},
            "additional_params_json.positions",
            ("at most 2", "3"),
        ),
        ("/multi-image-editing", ONE, {"mode": 13}, "controlnet_image", ("mode 13", "深度圖控制")),
        ("/multi-image-editing", ONE, {"mode": 16}, "controlnet_image", ("mode 16",)),
        ("/multi-image-editing", CONTROL, {"mode": 6}, "controlnet_image", ("13 to 16", "mode 6")),
    ],
)
def test_edit_is_refused(
    http: httpx.Client,
    path: str,
    images: Sequence[tuple[str, bytes]],
    fields: dict[str, Any],
    param: str,
    words: tuple[str, ...],
) -> None:
    answer = form(path, http, images, **fields)
    named(answer, 422, answer.json()["error"]["param"], words)
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("path", "images", "fields", "param"),
    [
        ("/edit", (("image", b"no image"),), {}, "image"),
        ("/edit/multi", (("images", PHOTO), ("images", b"no image")), {}, "images[1]"),
        ("/multi-image-editing", (*ONE, ("controlnet_image", b"no image")), {"mode": 13}, "controlnet_image"),
    ],
)
def test_edit_of_a_file_that_is_no_image_is_refused(
    http: httpx.Client, path: str, images: Sequence[tuple[str, bytes]], fields: dict[str, Any], param: str
) -> None:
    named(form(path, http, images, **fields), 415, param)


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/edit", {"image": "cat.png"}, 422, "image"),
        ("/edit", {"image": 5}, 422, "image"),
        ("/edit", {"images": []}, 422, "images"),
        ("/edit", {"images": [BASE64, 5]}, 422, "images[1]"),
        ("/edit", {"images": [BASE64, "cat.png"]}, 422, "images[1]"),
        ("/edit", {"images": [BASE64] * 6}, 422, "images"),
        ("/edit", {"image": BASE64, "prompt": 5}, 422, "prompt"),
        ("/edit", {"image": BASE64, "mode": True}, 422, "mode"),
        ("/edit/json", {"image_base64": [BASE64, BASE64]}, 422, "image_base64"),
        ("/edit/json", {"image_base64": BASE64, "true_guidance_scale": 11}, 422, "true_guidance_scale"),
        ("/edit/json", {}, 422, "image_base64"),
        ("/tasks", {"operation": "edit"}, 422, "images"),
        ("/tasks", {"operation": "edit", "image": BASE64, "mode": 17}, 422, "mode"),
        ("/tasks", {"operation": "edit", "images": [BASE64], "mode": 13}, 422, "controlnet_image"),
        ("/tasks", {"operation": "edit", "images": [BASE64], "mode": 9}, 422, "text_params_json"),
    ],
)
def test_edit_in_json_is_refused(http: httpx.Client, path: str, body: dict[str, Any], status: int, param: str) -> None:
    named(http.post(path, json={"prompt": "make it red", **body}), status, param)


def test_edit_with_a_bad_file_loses_nothing(http: httpx.Client) -> None:
    """The service goes on with the next request, which is refused only because there is no model."""
    assert form("/edit", http, (("image", b"no image"),)).status_code == 415
    assert form("/edit", http, (("image", PHOTO),)).status_code == 503


@pytest.mark.parametrize(
    ("path", "images", "fields"),
    [
        ("/edit", (("image", PHOTO),), {"mask": None, "randomize_seed": "true"}),
        ("/edit/json", (), {"image_base64": f"data:image/png;base64,{BASE64}"}),
        ("/edit/multi", TWO, {"guidance_scale": 1}),
        ("/multi-image-editing", TWO, {"mode": 1, "additional_params_json": '{"style": "realistic"}'}),
        ("/multi-image-editing", ONE, {"mode": 9, "text_params_json": TEXT}),
        ("/multi-image-editing", CONTROL, {"mode": 13}),
    ],
)
def test_edit_waits_for_a_model(
    http: httpx.Client, path: str, images: Sequence[tuple[str, bytes]], fields: dict[str, Any]
) -> None:
    answer = form(path, http, images, **fields)
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert "x-ignored-fields" not in answer.headers


def test_edit_names_what_it_does_not_read(http: httpx.Client) -> None:
    text = '{"old_text": "a", "new_text": "b", "size": 3}'
    answer = form(
        "/multi-image-editing",
        http,
        ONE,
        mode=10,
        text_params_json=text,
        additional_params_json='{"colour": "red"}',
        cfg_scale=3,
    )
    assert answer.status_code == 503
    assert answer.headers["X-Ignored-Fields"] == (
        "cfg_scale, text_params_json.old_text, text_params_json.size, additional_params_json.colour"
    )
    assert form("/edit/multi", http, TWO, mode=1).headers["X-Ignored-Fields"] == "mode"


@pytest.fixture(scope="module")
def one_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a proxy with USE_PLUS_PIPELINE off."""
    folder = tmp_path_factory.mktemp("one")
    settings = {"model_repository": folder / "none", "use_plus_pipeline": "false"}
    with running_proxy(folder, **settings) as proxy, httpx.Client(base_url=proxy.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "images", "fields"),
    [
        ("/edit", TWO, {}),
        ("/edit/multi", ONE, {}),
        ("/edit/multi", TWO, {}),
        ("/multi-image-editing", TWO, {"mode": 1}),
        ("/multi-image-editing", CONTROL, {"mode": 13}),
        ("/tasks", TWO, {"operation": "edit"}),
    ],
)
def test_edit_of_several_images_with_plus_off_is_a_conflict(
    one_at_a_time: httpx.Client, path: str, images: Sequence[tuple[str, bytes]], fields: dict[str, Any]
) -> None:
    answer = form(path, one_at_a_time, images, **fields)
    named(answer, 409, "images", ("USE_PLUS_PIPELINE", "Qwen-Image-Edit-2509"))
    assert answer.json()["error"]["code"] == "conflict"


def test_edit_of_one_image_with_plus_off_is_taken(one_at_a_time: httpx.Client) -> None:
    assert form("/edit", one_at_a_time, (("image", PHOTO),)).status_code == 503
    assert form("/multi-image-editing", one_at_a_time, ONE, mode=8).status_code == 503
    assert one_at_a_time.post("/edit/json", json={**QUICK, "image_base64": BASE64}).status_code == 503
