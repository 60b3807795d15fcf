"""Plans of TensorRT engines, their names and engine.json. Nothing here needs TensorRT or a GPU."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from darkroom.pipelines.sd15 import networks as sd15
from darkroom.pipelines.upscale.networks import NETWORKS
from darkroom.pipelines.upscale.settings import TILE, TILE_PAD
from darkroom.profiles import Axis, EngineSizes, Range, SizeClass
from darkroom.registry import all_specs
from darkroom.serving.networks import ModelSpec
from exporters.cli import main, run
from exporters.errors import ExportError
from exporters.files import ROOT
from exporters.tensorrt import engines, target
from exporters.tensorrt.graph import for_tensorrt, read_graph
from exporters.tensorrt.plan import GIB, describe, engine_sizes, holds, make_plan
from exporters.tensorrt.progress import Phases
from exporters.tensorrt.target import Gpu, Target
from tests.engines import A100, H100, TRT, WIDTH, install, write_onnx

SPECS = [spec for spec in all_specs() if spec.backend != "python"]
UNETS = [sd15.UNET, *sd15.CONTROL_UNETS.values()]
HERE = Target(gpu=H100, tensorrt=TRT)


def each(specs: list[ModelSpec]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("spec", specs, ids=[spec.name for spec in specs])


# --- sizes


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


# --- options


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


# --- models that do not fit


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


# --- names


def test_names_carry_precision_architecture_and_version() -> None:
    assert HERE.engine_name("fp16") == "model_fp16_sm90_trt10.13.plan"
    assert replace(HERE, tensorrt="11.4.0.106").engine_name("bf16") == "model_bf16_sm90_trt11.4.plan"
    assert Target(gpu=Gpu(name="x", capability="12.0"), tensorrt="10.9").engine_name("fp32") == (
        "model_fp32_sm120_trt10.9.plan"
    )
    assert HERE.timing_name == "timing_sm90_trt10.13.3.9.cache"


@pytest.mark.parametrize(
    ("visible", "found"),
    [(None, ["A", "B"]), ("1", ["B"]), ("1,0", ["B", "A"]), ("GPU-b", ["B"]), ("", []), (" 0 ", ["A"])],
)
def test_the_gpus_that_cuda_shows(monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[str]) -> None:
    """The driver is replaced: no GPU is here."""
    monkeypatch.setattr(target, "pynvml", Driver())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in target.visible_gpus()] == found


def test_a_hidden_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "pynvml", Driver())
    for value in ("2", "first", "GPU-x"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        with pytest.raises(ExportError, match=f"CUDA_VISIBLE_DEVICES names GPUs that are not there; got '{value}'"):
            target.visible_gpus()


class Driver:
    """Two GPUs, as pynvml tells of them."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    nvmlShutdown = nvmlInit  # noqa: N815

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if index > 1:
            raise self.NVMLError
        return "AB"[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-b":
            raise self.NVMLError
        return "B"

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return handle

    def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:  # noqa: N802
        return {"A": (8, 0), "B": (9, 0)}[handle]


# --- engine.json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version folder with an engine for HERE."""
    install(sd15.VAE_DECODER, tmp_path)
    return tmp_path / sd15.VAE_DECODER.name / "1"


def plan_of(folder: Path, **options: object) -> object:
    given = {"precision": "fp16", "max_batch": 8, **options}
    return make_plan(sd15.VAE_DECODER, folder / "model.onnx", **given)  # type: ignore[arg-type]


def test_the_same_engine_again_is_up_to_date(folder: Path) -> None:
    found = engines.up_to_date(folder, plan_of(folder), HERE)  # type: ignore[arg-type]
    assert found is not None
    assert (found.file, found.seconds, found.max_batch) == ("model_fp16_sm90_trt10.13.plan", 61.2, 8)
    raw = json.loads((folder / "engine.json").read_text())["engines"]
    assert raw[0]["facts"]["profiles"][0]["shapes"]["latents"] == [[1, 4, 8, 8], [1, 4, 64, 64], [8, 4, 64, 64]]
    assert raw[0]["target"] == {"gpu": {"name": "NVIDIA H100", "capability": "9.0"}, "tensorrt": TRT}


@pytest.mark.parametrize("change", ["gpu", "tensorrt", "patch", "onnx", "weights", "plan", "batch", "side", "workspace",
                                    "precision", "json"])  # fmt: skip
def test_whatever_changes_makes_another_engine(folder: Path, change: str) -> None:
    plan, where = plan_of(folder), HERE
    if change == "gpu":
        where = replace(HERE, gpu=A100)
    elif change == "tensorrt":
        where = replace(HERE, tensorrt="10.14.1.48")
    elif change == "patch":
        where = replace(HERE, tensorrt="10.13.2.6")
    elif change == "onnx":
        write_onnx(sd15.VAE_DECODER, folder, "fp16")
    elif change == "weights":
        (folder / "model.onnx.data").write_bytes(b"1")
        install(sd15.VAE_DECODER, folder.parents[1])
        assert engines.up_to_date(folder, plan, where) is not None  # type: ignore[arg-type]
        (folder / "model.onnx.data").write_bytes(b"2")
    elif change == "plan":
        (folder / "model_fp16_sm90_trt10.13.plan").write_bytes(b"cut")
    elif change == "json":
        (folder / "engine.json").write_text("{")
    else:
        options = {"batch": {"max_batch": 4}, "side": {"max_side": 512}, "workspace": {"workspace": GIB},
                   "precision": {"precision": "bf16"}}  # fmt: skip
        plan = plan_of(folder, **options[change])
    assert engines.up_to_date(folder, plan, where) is None  # type: ignore[arg-type]


def test_a_touched_model_is_the_same_model(folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content)
    assert engines.up_to_date(folder, plan_of(folder), HERE) is not None  # type: ignore[arg-type]


def test_engines_for_several_gpus_live_side_by_side(folder: Path) -> None:
    install(sd15.VAE_DECODER, folder.parents[1], gpu=A100)
    assert {kind: engine.file for kind, engine in engines.usable(folder).items()} == {
        "8.0": "model_fp16_sm80_trt10.13.plan",
        "9.0": "model_fp16_sm90_trt10.13.plan",
    }


def test_engines_of_a_model_that_is_no_more_are_removed(folder: Path) -> None:
    write_onnx(sd15.VAE_DECODER, folder, "fp32", fixed=False)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"\x72\x00")
    assert engines.usable(folder) == {}
    install(sd15.VAE_DECODER, folder.parents[1], gpu=A100)
    assert [path.name for path in folder.glob("*.plan")] == ["model_fp16_sm80_trt10.13.plan"]
    assert list(engines.usable(folder)) == ["8.0"]


# --- the command


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.tensorrt.cli.visible_gpus", tuple)
    file = write_onnx(sd15.UNET, tmp_path / "sd15_unet" / "1")
    before = sorted(tmp_path.rglob("*"))

    result = CliRunner().invoke(main, ["tensorrt", "--output", str(tmp_path), "--dry-run", "--precision", "fp16"])

    assert result.exit_code == 0, result.output
    assert result.output == describe(
        make_plan(sd15.UNET, file, precision="fp16"), "model_fp16_<GPU>_trt<TensorRT>.plan"
    ) + "\n"  # fmt: skip
    for line in (
        "sd15_unet: model_fp16_<GPU>_trt<TensorRT>.plan",
        "  types      fp16 where TensorRT likes, model.onnx is fp32 (flag FP16)",
        "  limits     batches of up to 16, 8 GiB of workspace",
        "    latents                               1x4x8x8           8x4x64x64         16x4x64x64",
        "    prompt_embeds                         1x77x48           2x77x48           16x308x48",
    ):
        assert line in result.output.splitlines()
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_names_the_gpu_that_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.tensorrt.cli.visible_gpus", lambda: (A100,))
    write_onnx(sd15.UNET, tmp_path / "sd15_unet" / "1", "fp16")
    result = CliRunner().invoke(main, ["tensorrt", "--output", str(tmp_path), "--dry-run", "--model", "sd15_unet"])
    assert result.output.startswith("sd15_unet: model_fp16_sm80_trt<TensorRT>.plan\n")


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(["tensorrt", *arguments])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def test_without_a_gpu_or_tensorrt_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "No exported network is in" in failure(capsys, "--output", str(tmp_path))
    write_onnx(sd15.UNET, tmp_path / "sd15_unet" / "1")
    monkeypatch.setattr(target, "visible_gpus", tuple)
    assert "No NVIDIA GPU is visible" in failure(capsys, "--output", str(tmp_path))
    monkeypatch.setattr(target, "visible_gpus", lambda: (H100,))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    sentence = failure(capsys, "--output", str(tmp_path))
    assert "TensorRT cannot be imported. An engine works with its own version only" in sentence
    assert "pip install tensorrt" in sentence


def test_what_is_up_to_date_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a module that has nothing but a version: whoever builds fails."""
    install(sd15.VAE_DECODER, tmp_path, max_batch=sd15.VAE_DECODER.max_batch_size)
    monkeypatch.setattr("exporters.tensorrt.cli.building_gpu", lambda: H100)
    monkeypatch.setitem(sys.modules, "tensorrt", type("T", (), {"__version__": TRT})())  # type: ignore[arg-type]
    command = ["tensorrt", "--output", str(tmp_path), "--precision", "fp16"]
    result = CliRunner().invoke(main, command)
    assert result.output == "sd15_vae_decoder: up to date (model_fp16_sm90_trt10.13.plan)\n"
    with pytest.raises(AttributeError):
        CliRunner().invoke(main, [*command, "--force"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "sd15"], ["--model", "'sd15'"]),
        (["--precision", "int8"], ["--precision", "bf16", "'int8'"]),
        (["--max-batch", "65"], ["--max-batch", "1<=x<=64", "65"]),
        (["--max-side", "0"], ["--max-side", "0"]),
        (["--workspace-gib", "0"], ["--workspace-gib", "0"]),
    ],
)
def test_wrong_options_are_named(arguments: list[str], words: list[str]) -> None:
    result = CliRunner().invoke(main, ["tensorrt", *arguments])
    assert result.exit_code == 2
    assert all(word in result.output.splitlines()[-1] for word in words), result.output


def test_no_builder_is_loaded_by_what_serves_and_renders() -> None:
    """Engines are built by the one command, never when a server or a stub starts."""
    program = (
        "import sys\n"
        "import darkroom.registry, proxy.app, supervisor.cli, exporters.config\n"
        "assert 'exporters.tensorrt.build' not in sys.modules and 'tensorrt' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


# --- progress


def test_progress_of_nested_phases() -> None:
    phases = Phases()
    shares = []
    phases.start("build", None, 4)
    phases.step("build", 0)
    shares.append(phases.share())
    phases.start("tactics", "build", 10)
    phases.step("tactics", 4)
    shares.append(phases.share())
    phases.finish("tactics")
    phases.step("build", 1)
    shares.append(phases.share())
    phases.finish("build")
    shares.append(phases.share())
    assert shares == [0.25, 0.375, 0.5, 1.0]


def test_progress_never_falls() -> None:
    phases = Phases()
    phases.start("build", None, 2)
    phases.start("inner", "build", 2)
    phases.step("inner", 0)
    before = phases.share()
    phases.finish("inner")
    phases.step("unknown", 3)
    assert phases.share() == before == 0.25
