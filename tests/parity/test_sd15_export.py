"""What the exporter of SD 1.5 writes into a repository, and a repository whose checkpoint changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.checkpoint import Sd15CheckpointInfo
from exporters import config, latent_plans, manifest, onnx_export, plan
from exporters.config import Placement
from exporters.controls import belongs
from exporters.errors import ExportError
from exporters.export import require_parity
from exporters.files import sha256
from exporters.repository import specs_of
from exporters.sd15 import plans, weights
from exporters.sd15.command import CONTROLS
from tests.sd15_exports import Sd15Export, export, noise


def test_export_carries_no_trace_of_the_machine(sd15_fp32: Sd15Export) -> None:
    for spec in networks.networks():
        model = (sd15_fp32.repository / spec.name / "1" / "model.onnx").read_bytes()
        for trace in (b"site-packages", b".py", b"stack_trace", str(sd15_fp32.checkpoint).encode()):
            assert trace not in model


def test_what_the_pipeline_reads(sd15_fp32: Sd15Export) -> None:
    facts = Sd15CheckpointInfo.read(sd15_fp32.repository / "sd15" / "1")
    tokenizer = sd15_fp32.pipeline.tokenizer

    assert facts.name == "tiny"
    weights_file = sd15_fp32.checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    assert facts.digest == sha256(weights_file.read_bytes())[:10]
    assert (facts.side, facts.guidance_scale) == (64, 7.5)
    assert facts.scheduler["_class_name"] == "PNDMScheduler"
    assert (facts.scheduler["clip_sample"], facts.scheduler["steps_offset"]) == (False, 1)
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert (facts.max_tokens, facts.bos_token_id, facts.eos_token_id, facts.pad_token_id) == (77, *ids)
    assert np.array(facts.latent_rgb).shape == (5, 3)


@pytest.mark.parametrize("text", ["", "a cat", "A  (cat:1.3),\tÉ 🐱 <|endoftext|>!", "cat " * 200])
def test_tokenizer_gives_the_ids_of_transformers(sd15_fp32: Sd15Export, text: str) -> None:
    ours = Tokenizer.from_file(str(sd15_fp32.repository / "sd15" / "1" / "tokenizer.json"))

    with onnx_export.quiet():
        theirs = sd15_fp32.pipeline.tokenizer(text, truncation=False, padding=False).input_ids

    assert ours.encode(text).ids == theirs


def test_a_second_run_has_nothing_to_do(sd15_fp32: Sd15Export) -> None:
    before = {path: path.stat().st_mtime_ns for path in sd15_fp32.repository.rglob("*") if path.is_file()}

    output = export("sd15", "--checkpoint", sd15_fp32.checkpoint, "--output", sd15_fp32.repository).output

    networks = ("sd15_text_encoder", "sd15_vae_encoder", "sd15_vae_decoder", "sd15_unet")
    names = [*networks, "sd15", "sd15_safety_checker", "sd15_unet_canny"]
    assert output.splitlines() == [f"{name}: up to date (fp32)" for name in names]
    assert before == {path: path.stat().st_mtime_ns for path in sd15_fp32.repository.rglob("*") if path.is_file()}


def test_another_base_takes_the_control_unet_with_it(sd15_fp32: Sd15Export, sd15_fp16: Sd15Export) -> None:
    """`sd15_fp16` is in a copy of `sd15_fp32`: its control UNet is made again, from the ControlNet that was noted."""
    assert "sd15_unet_canny: exported (fp16" in sd15_fp16.output
    control = manifest.read(sd15_fp16.repository / "sd15_unet_canny" / "1")
    assert belongs(control, CONTROLS.base_of(sd15_fp16.repository))
    assert not belongs(control, CONTROLS.base_of(sd15_fp32.repository))
    assert sd15_fp16.output.count("exported") == 7


def test_a_stale_control_unet_without_its_controlnet_is_removed(
    sd15_fp32: Sd15Export, sd15_fp16: Sd15Export, tmp_path: Path
) -> None:
    """The plain UNet is of another base, and the folder of the ControlNet is gone."""
    repository = tmp_path / "models"
    shutil.copytree(sd15_fp16.repository, repository)
    canny = repository / "sd15_unet_canny"
    shutil.rmtree(canny)
    shutil.copytree(sd15_fp32.repository / "sd15_unet_canny", canny)
    noted = (canny / "1" / "export.json").read_text()
    gone = manifest.read(canny / "1")
    assert gone is not None
    (canny / "1" / "export.json").write_text(noted.replace(gone.sources["controlnet"].name, str(tmp_path / "gone")))

    output = export("sd15", "--checkpoint", sd15_fp16.checkpoint, "--output", repository).output

    last = output.splitlines()[-1]
    assert last.startswith("sd15_unet_canny: removed, it was made for another checkpoint. ")
    assert "gone" in last
    assert not canny.exists()
    assert "sd15_unet_canny" not in {spec.name for spec in specs_of(repository)}
    export("config", "--output", repository)
    export("config", "--output", repository, "--check")
    assert not canny.exists()


def test_a_controlnet_of_another_base_is_refused(
    sd15_fp16: Sd15Export, sd15_fp32: Sd15Export, controlnet_folder: Path
) -> None:
    arguments = ("--checkpoint", sd15_fp32.checkpoint, "--output", sd15_fp16.repository)
    with pytest.raises(ExportError, match=r"sd15_unet in .* is of another checkpoint, .*; run first: python -m"):
        export("sd15-controlnet", "--controlnet", controlnet_folder, *arguments)


@pytest.mark.heavy
def test_labelled_checkpoint_is_exported_as_the_plain_one(
    sd15_fp32: Sd15Export, controlnet_folder: Path, tmp_path: Path
) -> None:
    """Into a repository that has nothing else: the same bytes under other names, each with its config."""
    output = export("export", sd15_fp32.checkpoint, "--as", "photos", "--output", tmp_path).output
    assert output.startswith(
        "tiny is a Stable Diffusion 1.5 checkpoint (StableDiffusionPipeline): exporting as sd15.photos"
    )
    export("sd15-controlnet", "--as", "photos", "--controlnet", controlnet_folder, "--output", tmp_path)
    names = {spec.name for spec in networks.specs()}
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.photos" for name in names}
    for name in names:
        for path in (sd15_fp32.repository / name / "1").iterdir():
            if path.name not in ("export.json", "model.py"):
                assert (tmp_path / f"{name}.photos" / "1" / path.name).read_bytes() == path.read_bytes(), path
    assert config.drift(tmp_path, [spec.labelled("photos") for spec in networks.specs()], Placement()) == ""
    assert (
        export("export", sd15_fp32.checkpoint, "--as", "photos", "--output", tmp_path).output.count("up to date") == 6
    )


def test_other_weights_are_not_installed(sd15_fp32: Sd15Export) -> None:
    wanted = plans.plan_of(networks.UNET)
    unet = weights.load("unet", weights.read_checkpoint(sd15_fp32.checkpoint).unet)
    with torch.no_grad():
        unet.conv_out.weight.mul_(1.01)
    model = sd15_fp32.repository / "sd15_unet" / "1" / "model.onnx"

    differences = onnx_export.compare(model, plan.originals(wanted, {"unet": unet}))

    with pytest.raises(ExportError, match=r"sd15_unet: noise_pred of the fp32 export differs .* it was not installed"):
        require_parity(wanted, "fp32", differences)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_not_installed(value: float) -> None:
    broken = np.array([1, value], np.float32)
    differences = {"noise_pred": onnx_export.difference(broken, np.ones(2, np.float32))}
    with pytest.raises(ExportError, match="differs from diffusers by inf"):
        require_parity(plans.plan_of(networks.UNET), "fp16", differences)


def test_checks_cover_odd_latents_and_long_prompts() -> None:
    shapes = latent_plans.CHECK_SHAPES
    assert any(shape.height % 2 and shape.width % 2 for shape in shapes)
    assert {77, 154, 231} <= {shape.tokens for shape in shapes}
    assert {1, 3} <= {shape.rows for shape in shapes}


def test_weights_of_a_large_model_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "LARGEST_SINGLE_FILE", 1000)
    layer = torch.nn.Linear(300, 20)
    rows = onnx_export.dimension("rows")
    model = onnx_export.export_onnx(layer, {"x": torch.zeros(2, 300)}, dynamic={"x": {0: rows}}, outputs=["y"])

    files = onnx_export.save(model, tmp_path)

    assert [file.name for file in files] == ["model.onnx.data", "model.onnx"]
    assert files[0].stat().st_size >= 300 * 20 * 4
    assert files[1].stat().st_size < 4000
    given = noise(5, 300)
    with torch.no_grad():
        expected = layer(torch.tensor(given)).numpy()
    found = onnx_export.compare(files[1], [({"x": given}, {"y": expected})])["y"]
    assert found.relative < 1e-5
