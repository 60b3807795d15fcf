"""Plans of TensorRT engines, their names and engine.json. Nothing here needs TensorRT or a GPU."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from darkroom.pipelines.sd15 import networks as sd15
from darkroom.pipelines.upscale.networks import NETWORKS
from darkroom.pipelines.upscale.settings import TILE, TILE_PAD
from darkroom.profiles import Axis, EngineSizes, Range, SizeClass
from darkroom.registry import all_specs
from darkroom.serving.networks import ModelSpec
from exporters.errors import ExportError
from exporters.tensorrt.graph import for_tensorrt, read_graph
from exporters.tensorrt.plan import engine_sizes, holds, make_plan
from tests.engines import WIDTH, write_onnx

WITHOUT_ENGINE = ("sd15_safety_checker",)
"""TensorRT has no fp64, in which its images are resized."""
SPECS = [spec for spec in all_specs() if spec.backend != "python" and spec.name not in WITHOUT_ENGINE]
UNETS = [sd15.UNET, *sd15.CONTROL_UNETS.values()]


def each(specs: list[ModelSpec]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("spec", specs, ids=[spec.name for spec in specs])


def test_every_network_of_every_family_says_its_sizes() -> None:
    assert set(engine_sizes()) == {spec.name for spec in SPECS}


@each(SPECS)
def test_profiles_are_boxes_for_every_input(spec: ModelSpec, tmp_path: Path) -> None:
    plan = make_plan(spec, write_onnx(spec, tmp_path))

    assert plan.max_batch == spec.max_batch_size
    for profile in plan.profiles:
        assert list(profile.shapes) == [tensor.name for tensor in spec.inputs]
        for tensor in spec.inputs:
            shapes = profile.shapes[tensor.name]
            sizes = list(zip(shapes.minimum, shapes.optimum, shapes.maximum, strict=True))
            assert all(1 <= low <= usual <= high for low, usual, high in sizes)
            assert sizes[0][::2] == (1, spec.max_batch_size)
            for wanted, found in zip(tensor.dims, sizes[1:], strict=True):
                assert wanted == -1 or found == (wanted, wanted, wanted)


@each([spec for spec in SPECS if spec.canary is not None and not spec.canary_model])
def test_profiles_hold_the_canary(spec: ModelSpec, tmp_path: Path) -> None:
    plan = make_plan(spec, write_onnx(spec, tmp_path))
    assert spec.canary is not None
    assert holds(plan, {name: array.shape for name, array in spec.canary().items()})


def unet_call(spec: ModelSpec, rows: int, width: int, height: int, chunks: int = 1) -> dict[str, tuple[int, ...]]:
    shapes = {
        "latents": (rows, 4, height // 8, width // 8),
        "timestep": (rows, 1),
        "prompt_embeds": (rows, 77 * chunks, WIDTH),
        "control_image": (rows, height, width, 3),
        "controlnet_conditioning_scale": (rows, 1),
    }
    return {tensor.name: shapes[tensor.name] for tensor in spec.inputs}


@each(UNETS)
def test_unet_profiles_hold_what_requests_ask_for(spec: ModelSpec, tmp_path: Path) -> None:
    plan = make_plan(spec, write_onnx(spec, tmp_path))

    for width, height in itertools.product((64, 72, 320, 512, 520, 768, 1000, 1024), repeat=2):
        assert holds(plan, unet_call(spec, 1, width, height)), (width, height)
        assert holds(plan, unet_call(spec, spec.max_batch_size, width, height, chunks=4)), (width, height)
    assert not holds(plan, unet_call(spec, 1, 1032, 512))
    assert not holds(plan, unet_call(spec, 1, 56, 512))
    assert not holds(plan, unet_call(spec, spec.max_batch_size + 1, 512, 512))
    assert not holds(plan, unet_call(spec, 1, 512, 512, chunks=5))
    assert plan.profiles[0].shapes["latents"].optimum == (8, 4, 64, 64)


@each([network.spec() for network in NETWORKS])
def test_upscalers_are_timed_for_a_full_tile(spec: ModelSpec, tmp_path: Path) -> None:
    plan = make_plan(spec, write_onnx(spec, tmp_path))
    side = TILE + 2 * TILE_PAD
    assert plan.profiles[0].shapes["image"].optimum == (2, side, side, 3)
    assert holds(plan, {"image": (spec.max_batch_size, side, side, 3)})
    assert holds(plan, {"image": (1, 1, 1, 3)})


def test_the_width_of_the_embeddings_is_that_of_the_weights(tmp_path: Path) -> None:
    graph = read_graph(write_onnx(sd15.UNET, tmp_path))
    assert graph.inputs["prompt_embeds"] == (None, None, WIDTH)
    assert graph.inputs["latents"] == (None, 4, None, None)


@pytest.mark.parametrize("limits", [(0, 1, 2), (2, 1, 3), (1, 3, 2), (-1, 1, 1)])
def test_wrong_ranges_are_refused(limits: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=rf"minimum <= optimum <= maximum; got {limits[0]}, {limits[1]}, {limits[2]}"):
        Range(minimum=limits[0], optimum=limits[1], maximum=limits[2])


def test_a_smaller_batch_lowers_the_usual_one_too(tmp_path: Path) -> None:
    plan = make_plan(sd15.UNET, write_onnx(sd15.UNET, tmp_path), max_batch=4)
    shapes = plan.profiles[0].shapes["latents"]
    assert (shapes.minimum[0], shapes.optimum[0], shapes.maximum[0]) == (1, 4, 4)


def test_a_smaller_side_makes_one_profile_of_two(tmp_path: Path) -> None:
    file = write_onnx(sd15.UNET, tmp_path)
    smaller = make_plan(sd15.UNET, file, max_side=768)
    assert [profile.shapes["latents"].maximum[2:] for profile in smaller.profiles] == [(64, 64), (96, 96)]
    assert smaller.profiles[1].shapes["latents"].optimum == (2, 4, 96, 96)
    smallest = make_plan(sd15.UNET, file, max_side=512)
    assert [profile.name for profile in smallest.profiles] == ["up to 512"]


@pytest.mark.parametrize(
    ("side", "words"), [(32, "at least 64 and a multiple of 8; got 32"), (1001, "a multiple of 8; got 1001")]
)
def test_a_senseless_side_is_refused(tmp_path: Path, side: int, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        make_plan(sd15.UNET, write_onnx(sd15.UNET, tmp_path), max_side=side)


@pytest.mark.parametrize(
    ("model", "wanted", "strong", "flags"),
    [("fp32", None, True, ()), ("fp16", None, True, ()), ("fp16", "fp16", True, ()), ("fp32", "fp16", False, ("FP16",)),
     ("fp32", "bf16", False, ("BF16",))],
)  # fmt: skip
def test_types(tmp_path: Path, model: str, wanted: str | None, strong: bool, flags: tuple[str, ...]) -> None:
    plan = make_plan(sd15.UNET, write_onnx(sd15.UNET, tmp_path, model), precision=wanted)  # type: ignore[arg-type]
    assert plan.precision == (wanted or model)
    assert (plan.strongly_typed, plan.flags) == (strong, flags)


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_half_precision_makes_no_other_one(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(ExportError, match=rf"model.onnx is fp16, of which no {wanted} engine can be made"):
        make_plan(sd15.UNET, write_onnx(sd15.UNET, tmp_path, "fp16"), precision=wanted)  # type: ignore[arg-type]


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"model.onnx is not there; export the network first\."):
        make_plan(sd15.UNET, tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"\xff\xff no protobuf")
    with pytest.raises(ExportError, match="cannot be read as an ONNX model"):
        make_plan(sd15.UNET, tmp_path / "model.onnx")


def test_a_model_with_other_inputs(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"sd15_unet: model.onnx has the inputs image of 4 dimensions, expected "):
        make_plan(sd15.UNET, write_onnx(sd15.VAE_ENCODER, tmp_path))
    with pytest.raises(ExportError, match="fixes the batch of input_ids"):
        make_plan(sd15.TEXT_ENCODER, write_onnx(sd15.TEXT_ENCODER, tmp_path, fixed=True))


def test_a_dynamic_dimension_without_a_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(sd15.VAE_ENCODER, name="other")
    height = Range(minimum=1, optimum=2, maximum=3)
    sizes = EngineSizes(
        axes={"image": (Axis(name="height"), Axis(name="depth"), None)},
        classes=(SizeClass(name="all", batch=1, ranges={"height": height}),),
    )
    monkeypatch.setattr("exporters.tensorrt.plan.engine_sizes", lambda: {"other": sizes})
    with pytest.raises(ExportError, match=r"dimension 2 of image is dynamic, and profiles\.py gives no range"):
        make_plan(spec, write_onnx(spec, tmp_path))
    with pytest.raises(ExportError, match=r"No profiles.py says what sizes an engine of nobody"):
        make_plan(replace(spec, name="nobody"), tmp_path / "model.onnx")


def test_limits_that_are_no_whole_elements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = Range(minimum=64, optimum=500, maximum=512)
    axes = (None, Axis(name="side", step=8), Axis(name="side", step=8))
    sizes = EngineSizes(axes={"latents": axes}, classes=(SizeClass(name="x", batch=1, ranges={"side": side}),))
    monkeypatch.setattr("exporters.tensorrt.plan.engine_sizes", lambda: {sd15.VAE_DECODER.name: sizes})
    with pytest.raises(ExportError, match=r"counts steps of 8, and its range is \(64, 500, 512\)"):
        make_plan(sd15.VAE_DECODER, write_onnx(sd15.VAE_DECODER, tmp_path))


def test_casts_come_first_and_nothing_else_changes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sqrt", ["floats"], ["roots"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "h", "w", 3])
    roots = helper.make_tensor_value_info("roots", TensorProto.FLOAT, ["n", 3, "h", "w"])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [image], [roots]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    swapped = for_tensorrt(tmp_path / "model.onnx")

    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    sessions = [
        ort.InferenceSession(m, providers=["CPUExecutionProvider"]) for m in (model.SerializeToString(), swapped)
    ]
    answers = [session.run(None, {"image": pixels})[0] for session in sessions]
    np.testing.assert_array_equal(*answers)
    assert swapped.index(b"Cast") < swapped.index(b"Transpose")
    assert model.SerializeToString().index(b"Transpose") < model.SerializeToString().index(b"Cast")
