"""What the operation `edit` makes of a request: fields of the model, with the defaults of modes and checkpoints."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import Conflict, InvalidInput
from proxy.models import default_model
from proxy.operations import OPERATIONS
from proxy.operations.edit import SettledEdit, reads_several, settled
from proxy.tasks.models import Work
from tests.contract.editing import OTHER, PHOTO, TEXT
from tests.families.qwen_edit.services import services_of, write_checkpoint


def edit_of(repository: Path, fields: dict[str, Any], usual: dict[str, Any] | None = None, **more: Any) -> SettledEdit:
    async def run() -> SettledEdit:
        async with services_of(repository, **more) as services:
            return await settled(services, default_model(services, "edit"), fields, usual)

    return asyncio.run(run())


ONE = {"prompt": "go", "images": [PHOTO]}
IN_MODES: dict[int, dict[str, Any]] = {
    1: {"prompt": "go", "images": [PHOTO, OTHER], "mode": 1},
    8: {**ONE, "mode": 8},
    9: {**ONE, "mode": 9, "text_params_json": TEXT},
    13: {**ONE, "mode": 13, "controlnet_image": OTHER},
}


@pytest.mark.parametrize(("mode", "steps"), [(1, 40), (8, 50), (9, 50), (13, 40)])
def test_defaults_of_a_published_checkpoint_are_those_of_the_mode(tmp_path: Path, mode: int, steps: int) -> None:
    write_checkpoint(tmp_path)
    fields = edit_of(tmp_path, IN_MODES[mode]).fields
    assert (fields["steps"], fields["true_guidance_scale"], fields["guidance_scale"]) == (steps, 4.0, 1.0)
    assert fields["negative_prompt"] == " "


def test_defaults_of_an_endpoint_without_a_mode(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    assert edit_of(tmp_path, ONE, {"steps": 50}).fields["steps"] == 50
    assert edit_of(tmp_path, {**ONE, "num_inference_steps": "3"}, {"steps": 50}).fields == {
        **ONE,
        "num_inference_steps": "3",
        "negative_prompt": " ",
    }
    assert edit_of(tmp_path, {**ONE, "negative_prompt": ""}).fields["negative_prompt"] == "", "an empty one is one"
    limited = edit_of(tmp_path, {**ONE, "steps": ""}, {"steps": 50})
    assert limited.fields["steps"] == 50, "an empty field of a form is absent"


def test_defaults_are_within_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_MAX_STEPS", "7")
    write_checkpoint(tmp_path)
    assert edit_of(tmp_path, IN_MODES[8]).fields["steps"] == 7


def test_defaults_of_a_distilled_checkpoint_are_its_own(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, steps=4, scale=1.0)
    fields = edit_of(tmp_path, IN_MODES[1]).fields
    assert "steps" not in fields
    assert "true_guidance_scale" not in fields
    assert fields["guidance_scale"] == 1.0


def test_checkpoint_that_reads_one_image_refuses_several(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, plus=False)
    for mode in (1, 13):
        with pytest.raises(Conflict, match=r"the model qwen_edit reads one image\. Set USE_PLUS_PIPELINE=true"):
            edit_of(tmp_path, IN_MODES[mode], use_plus_pipeline=True)
    assert edit_of(tmp_path, IN_MODES[8]).fields["images"] == [PHOTO]


@pytest.mark.parametrize(
    ("plus", "setting", "several"),
    [(True, None, True), (True, True, True), (True, False, False), (False, None, False), (False, True, False)],
)
def test_several_images_depend_on_checkpoint_and_setting(
    tmp_path: Path, plus: bool, setting: bool | None, several: bool
) -> None:
    write_checkpoint(tmp_path, plus=plus)

    async def run() -> bool:
        async with services_of(tmp_path, use_plus_pipeline=setting) as services:
            return reads_several(services, default_model(services, "edit"))

    assert asyncio.run(run()) is several


def test_control_image_comes_last(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    edit = edit_of(tmp_path, IN_MODES[13])
    assert edit.fields["images"] == [PHOTO, OTHER]
    assert edit.mode is not None
    assert edit.fields["prompt"] == "Edit Picture 1 so that the result follows the depth map of Picture 2. go"
    assert not {"mode", "controlnet_image"} & edit.fields.keys()


def test_work_of_a_task_holds_every_image(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)

    async def run() -> Work:
        async with services_of(tmp_path) as services:
            fields = {**IN_MODES[1], "seed": 7, "num_inference_steps": 2, "enlarge": 2, "enlarge_model": "x4plus"}
            return await OPERATIONS["edit"].accept(services, fields)

    work = asyncio.run(run())
    assert work.files == {"images__0": PHOTO, "images__1": OTHER}
    assert (work.fields["seed"], work.fields["steps"], work.fields["enlarge"]) == (7, 2, 2)
    assert (work.steps, work.units, work.kind) == (3, 4, "96x80 2 images x4plus x2")
    assert "mode" not in work.fields


@pytest.mark.parametrize(("mode", "kind"), [(14, "edges"), (16, "sketch")])
def test_control_image_is_made_of_the_image_where_the_request_says_so(tmp_path: Path, mode: int, kind: str) -> None:
    write_checkpoint(tmp_path)
    edit = edit_of(tmp_path, {**ONE, "mode": mode, "additional_params_json": {"make_control": True}})
    assert (edit.fields["make_map"], edit.fields["images"]) == (kind, [PHOTO])
    assert "Picture 2" in edit.fields["prompt"]
    assert not edit.warnings


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"mode": 8}, InvalidInput, "make_control is for modes 13 to 16; mode 8 reads no control image"),
        ({"mode": 14, "controlnet_image": OTHER}, InvalidInput, "exclude each other"),
    ],
)
def test_control_image_that_cannot_be_made_is_refused(
    tmp_path: Path, fields: dict[str, Any], kind: type[Exception], text: str
) -> None:
    write_checkpoint(tmp_path)
    with pytest.raises(kind, match=text):
        edit_of(tmp_path, {**ONE, **fields, "additional_params_json": '{"make_control": true}'})


def test_control_image_that_is_made_needs_a_model_that_reads_several(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, plus=False)
    with pytest.raises(Conflict, match="reads one image"):
        edit_of(tmp_path, {**ONE, "mode": 14, "additional_params_json": {"make_control": True}})


@pytest.mark.parametrize("plus", [True, False])
def test_control_image_goes_through_the_controlnet_of_a_checkpoint(tmp_path: Path, plus: bool) -> None:
    """It is no image by number then, so a model that reads one image does it as well."""
    write_checkpoint(tmp_path, plus=plus, controlnet="union")
    edit = edit_of(tmp_path, IN_MODES[13])
    assert (edit.fields["images"], edit.fields["control_image"]) == ([PHOTO], OTHER)
    assert edit.fields["prompt"] == "Edit the picture. go"
    made = edit_of(tmp_path, {**ONE, "mode": 16, "prompt": "紅色", "additional_params_json": {"make_control": True}})
    assert (made.fields["images"], made.fields["make_map"]) == ([PHOTO], "sketch")
    assert made.fields["prompt"] == "編輯圖中的內容。紅色"


def test_work_of_an_edit_through_a_controlnet_holds_the_control_image(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, controlnet="union")

    async def run() -> Work:
        async with services_of(tmp_path) as services:
            return await OPERATIONS["edit"].accept(services, {**IN_MODES[13], "controlnet_conditioning_scale": 0.5})

    work = asyncio.run(run())
    assert work.files == {"images__0": PHOTO, "control_image": OTHER}
    assert work.fields["controlnet_conditioning_scale"] == 0.5
    assert work.kind == "96x80 controlled"


def test_control_image_without_a_controlnet_is_refused_where_requests_are_taken(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)

    async def run() -> Work:
        async with services_of(tmp_path) as services:
            return await OPERATIONS["edit"].accept(services, {**ONE, "control_image": OTHER})

    with pytest.raises(Conflict, match="tiny has no ControlNet; QWEN_EDIT_CONTROLNET names one"):
        asyncio.run(run())
