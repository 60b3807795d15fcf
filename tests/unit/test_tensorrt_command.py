"""`python -m exporters tensorrt` where nothing can be built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from darkroom.pipelines.sd15 import networks as sd15
from exporters.cli import main, run
from exporters.files import ROOT
from exporters.tensorrt import target
from exporters.tensorrt.plan import describe, make_plan
from tests.engines import A100, H100, TRT, install, write_onnx


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
    """The module `tensorrt` has nothing but a version, so building would fail."""
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
