"""Exports of a tiny SD 1.5 checkpoint against diffusers, and a repository whose checkpoint changes."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.attention_processor import Attention
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from darkroom.diffusion.schedulers import make_scheduler
from darkroom.pipelines.sd15 import networks
from darkroom.pipelines.sd15.checkpoint import Checkpoint
from darkroom.registry import all_specs
from darkroom.serving.networks import Array, Network, OrtNetwork, Tensors
from exporters import config, latent_plans, manifest, onnx_export, plan
from exporters.cli import main
from exporters.config import Placement
from exporters.errors import ExportError
from exporters.export import TOLERANCE, require_parity
from exporters.files import sha256
from exporters.graphs.fused_attention import OPERATOR, spell_out
from exporters.manifest import Precision
from exporters.repository import specs_of
from exporters.sd15 import controls, plans, weights
from tests import tiny_sd15
from tests.sd15_checkpoints import WIDTH, write_checkpoint, write_controlnet

PICTURE_TOLERANCE = {"fp32": 2, "fp16": 4}
"""Levels of 255 that any pixel of a finished picture may differ from diffusers' in fp32."""
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Made:
    """A repository with everything of one checkpoint, and diffusers' pipeline of the same files in fp32."""

    repository: Path
    checkpoint: Path
    precision: Precision
    output: str
    pipeline: StableDiffusionPipeline
    controlnet: ControlNetModel

    def network(self, spec: Any) -> OrtNetwork:
        return OrtNetwork(self.repository / spec.name / "1" / "model.onnx", threads=2)


def export(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if isinstance(result.exception, ExportError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def read_back(folder: Path, controlnet: Path) -> tuple[StableDiffusionPipeline, ControlNetModel]:
    with onnx_export.quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, low_cpu_mem_usage=False)
        return pipeline, ControlNetModel.from_pretrained(controlnet, low_cpu_mem_usage=False)


@pytest.fixture(scope="module")
def controlnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_controlnet(tmp_path_factory.mktemp("canny") / "tiny-canny")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, controlnet_folder: Path) -> Made:
    """fp32."""
    folder = tmp_path_factory.mktemp("full")
    checkpoint, repository = write_checkpoint(folder / "tiny", seed=0), folder / "models"
    config.write_configs(repository, all_specs(), Placement())
    output = export("sd15", "--checkpoint", checkpoint, "--output", repository).output
    output += export("sd15-controlnet", "--controlnet", controlnet_folder, "--output", repository).output
    return Made(repository, checkpoint, "fp32", output, *read_back(checkpoint, controlnet_folder))


@pytest.fixture(scope="module")
def half(full: Made, tmp_path_factory: pytest.TempPathFactory, controlnet_folder: Path) -> Made:
    """fp16, of another checkpoint, which is stored in fp16 and takes the first one's place in its repository."""
    folder = tmp_path_factory.mktemp("half")
    checkpoint, repository = write_checkpoint(folder / "other", seed=9, half=True), folder / "models"
    shutil.copytree(full.repository, repository)
    arguments = ("sd15", "--checkpoint", checkpoint, "--output", repository, "--precision", "fp16")
    output = export(*arguments).output
    return Made(repository, checkpoint, "fp16", output, *read_back(checkpoint, controlnet_folder))


@pytest.fixture(params=["full", "half"])
def made(request: pytest.FixtureRequest) -> Made:
    chosen: Made = request.getfixturevalue(request.param)
    return chosen


def agree(ours: Floats, theirs: Tensor, precision: Precision) -> None:
    expected = theirs.detach().numpy()
    assert (ours.shape, ours.dtype) == (expected.shape, np.float32)
    assert np.abs(ours - expected).max() <= TOLERANCE[precision].relative * np.abs(expected).max()


def noise(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pixels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# Latents of any size, odd ones too; one, two and three chunks of a prompt; a batch of 1.
UNET_SHAPES = [(1, 9, 13, 77), (2, 16, 16, 154), (1, 24, 8, 231), (3, 8, 15, 77), (1, 11, 10, 77), (1, 8, 8, 1)]


@pytest.mark.parametrize(("rows", "height", "width", "tokens"), UNET_SHAPES)
def test_unet(made: Made, rows: int, height: int, width: int, tokens: int) -> None:
    latents, embeds = noise(rows, 4, height, width), noise(rows, tokens, WIDTH, seed=1)
    times = np.linspace(999, 0.5, rows, dtype=np.float32)[:, None]
    inputs = {"latents": latents, "timestep": times, "prompt_embeds": embeds}

    ours = made.network(networks.UNET).run(inputs)["noise_pred"]

    with torch.no_grad():
        theirs = made.pipeline.unet(torch.tensor(latents), torch.tensor(times[:, 0]), torch.tensor(embeds)).sample
    agree(ours, theirs, made.precision)


@pytest.mark.parametrize(("rows", "height", "width", "tokens"), UNET_SHAPES)
def test_controlled_unet(made: Made, rows: int, height: int, width: int, tokens: int) -> None:
    """Each row with a scale of its own, where diffusers has one for all rows."""
    latents, embeds = noise(rows, 4, height, width), noise(rows, tokens, WIDTH, seed=1)
    times = np.linspace(999, 0.5, rows, dtype=np.float32)[:, None]
    image, scales = pixels(rows, 8 * height, 8 * width, 3), np.linspace(1, 0.3, rows, dtype=np.float32)[:, None]
    inputs = {"latents": latents, "timestep": times, "prompt_embeds": embeds}
    inputs |= {"control_image": image, "controlnet_conditioning_scale": scales}

    ours = made.network(networks.CONTROL_UNETS["canny"]).run(inputs)["noise_pred"]

    for row in range(rows):
        call = [torch.tensor(value[row : row + 1]) for value in (latents, times[:, 0], embeds)]
        picture = torch.tensor(image[row : row + 1]).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            down, middle = made.controlnet(
                *call, controlnet_cond=picture, conditioning_scale=float(scales[row, 0]), return_dict=False
            )
            theirs = made.pipeline.unet(
                *call, down_block_additional_residuals=down, mid_block_additional_residual=middle
            ).sample
            plain = made.pipeline.unet(*call).sample
        agree(ours[row : row + 1], theirs, made.precision)
        assert (theirs - plain).abs().max() > 0.1 * plain.abs().max(), "the control should do something"


def test_control_of_scale_0_is_the_plain_unet(full: Made) -> None:
    inputs = {"latents": noise(1, 4, 9, 8), "timestep": np.array([[500]], np.float32)}
    inputs["prompt_embeds"] = noise(1, 77, WIDTH, seed=1)
    control = {"control_image": pixels(1, 72, 64, 3), "controlnet_conditioning_scale": np.zeros((1, 1), np.float32)}

    controlled = full.network(networks.CONTROL_UNETS["canny"]).run({**inputs, **control})["noise_pred"]

    plain = full.network(networks.UNET).run(inputs)["noise_pred"]
    np.testing.assert_allclose(controlled, plain, atol=1e-5)


def test_control_picture_is_read_as_diffusers_reads_it(full: Made) -> None:
    """StableDiffusionControlNetPipeline prepares the picture, then its own ControlNet and UNet."""
    image = pixels(72, 64, 3)
    with onnx_export.quiet():
        pipeline = StableDiffusionControlNetPipeline.from_pipe(full.pipeline, controlnet=full.controlnet)
        prepared = pipeline.prepare_image(VaeImageProcessor.numpy_to_pil(image / 255)[0], 64, 72, 1, 1, "cpu", None)
    np.testing.assert_array_equal(prepared[0].permute(1, 2, 0).numpy(), image.astype(np.float32) / 255)


def test_rows_of_other_timesteps_do_not_touch_each_other(full: Made) -> None:
    inputs = {"latents": noise(3, 4, 9, 8), "timestep": np.array([[999], [501.25], [1]], np.float32)}
    inputs["prompt_embeds"] = noise(3, 77, WIDTH, seed=1)
    network = full.network(networks.UNET)

    together = network.run(inputs)["noise_pred"]

    for row in range(3):
        alone = network.run({name: value[row : row + 1] for name, value in inputs.items()})["noise_pred"]
        np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-5)
    other = network.run({**inputs, "timestep": np.full((3, 1), 999, np.float32)})["noise_pred"]
    assert np.abs(other[1] - together[1]).max() > 1e-3


@pytest.mark.parametrize(("rows", "tokens"), [(1, 77), (3, 77), (2, 5), (1, 1)])
def test_text_encoder(made: Made, rows: int, tokens: int) -> None:
    ids = np.random.default_rng(0).integers(0, made.pipeline.text_encoder.config.vocab_size, (rows, tokens))

    ours = made.network(networks.TEXT_ENCODER).run({"input_ids": ids})["prompt_embeds"]

    with torch.no_grad():
        agree(ours, made.pipeline.text_encoder(torch.tensor(ids)).last_hidden_state, made.precision)


@pytest.mark.parametrize(("rows", "height", "width"), [(1, 9, 13), (2, 16, 8), (1, 8, 8)])
def test_vae_encoder(made: Made, rows: int, height: int, width: int) -> None:
    image = pixels(rows, 8 * height, 8 * width, 3)

    ours = made.network(networks.VAE_ENCODER).run({"image": image})

    with torch.no_grad():
        prepared = VaeImageProcessor().preprocess(torch.tensor(image).permute(0, 3, 1, 2) / 255)
        posterior = made.pipeline.vae.encode(prepared).latent_dist
    factor = made.pipeline.vae.config.scaling_factor
    agree(ours["mean"], posterior.mean * factor, made.precision)
    agree(ours["std"], posterior.std * factor, made.precision)


@pytest.mark.parametrize(("rows", "height", "width"), [(1, 9, 13), (2, 16, 8), (1, 8, 8)])
def test_vae_decoder(made: Made, rows: int, height: int, width: int) -> None:
    latents = noise(rows, 4, height, width)

    ours = made.network(networks.VAE_DECODER).run({"latents": latents})["image"]

    vae = made.pipeline.vae
    with torch.no_grad():
        decoded = vae.decode(torch.tensor(latents) / vae.config.scaling_factor).sample
    theirs = np.stack([np.asarray(image) for image in made.pipeline.image_processor.postprocess(decoded)])
    assert (ours.shape, ours.dtype) == ((rows, 8 * height, 8 * width, 3), np.uint8)
    distance = np.abs(ours.astype(int) - theirs.astype(int))
    assert theirs.std() > 20, "a flat picture would prove nothing"
    assert distance.max() <= TOLERANCE[made.precision].levels
    if made.precision == "fp32":  # a value near a half may round to either side
        assert np.count_nonzero(distance) <= 0.002 * distance.size


@pytest.mark.parametrize("scheduler", ["euler", "dpmpp_2m_karras"])
def test_whole_pictures(made: Made, scheduler: str) -> None:
    """The loop on the exported networks, against diffusers in fp32: what a step is off, the next one begins with."""

    def served(spec: Any) -> Network:
        network = made.network(spec)

        async def call(inputs: Tensors) -> dict[str, Array]:
            return network.run(inputs)

        return call

    components = dataclasses.replace(
        tiny_sd15.make_components(made.pipeline),
        text_encoder=served(networks.TEXT_ENCODER),
        unet=served(networks.UNET),
        vae_decoder=served(networks.VAE_DECODER),
    )
    fields = {"prompt": "a cat", "seed": 3, "num_images": 2, "guidance_scale": 7.5, "width": 72, "height": 64}
    ours = tiny_sd15.our_pictures(components, steps=10, scheduler=scheduler, **fields)
    made.pipeline.scheduler = make_scheduler(scheduler, components.checkpoint.scheduler)
    theirs = tiny_sd15.their_pictures(made.pipeline, num_inference_steps=10, **fields)
    assert theirs.std() > 20, "a flat picture would prove nothing"
    assert np.abs(ours.astype(int) - theirs).max() <= PICTURE_TOLERANCE[made.precision]


def test_tensors_are_those_of_the_configs(made: Made) -> None:
    types = {"FP32": "tensor(float)", "UINT8": "tensor(uint8)", "INT64": "tensor(int64)"}
    for spec in networks.networks():
        session = made.network(spec).session
        for tensors, specs in ((session.get_inputs(), spec.inputs), (session.get_outputs(), spec.outputs)):
            assert [(t.name, t.type) for t in tensors] == [(s.name, types[s.dtype]) for s in specs]
            for tensor, wanted in zip(tensors, specs, strict=True):
                found = [size if isinstance(size, int) else -1 for size in tensor.shape]
                # The widths of a checkpoint's embeddings are numbers in its graphs.
                assert len(found) == len(wanted.dims) + 1
                assert found[0] == -1
                assert all(want in (-1, size) for size, want in zip(found[1:], wanted.dims, strict=True))


def test_export_carries_no_trace_of_the_machine(full: Made) -> None:
    for spec in networks.networks():
        model = (full.repository / spec.name / "1" / "model.onnx").read_bytes()
        for trace in (b"site-packages", b".py", b"stack_trace", str(full.checkpoint).encode()):
            assert trace not in model


def test_what_the_pipeline_reads(full: Made) -> None:
    facts = Checkpoint.read(full.repository / "sd15" / "1")
    tokenizer = full.pipeline.tokenizer

    assert facts.name == "tiny"
    weights_file = full.checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    assert facts.digest == sha256(weights_file.read_bytes())[:10]
    assert (facts.side, facts.guidance_scale) == (64, 7.5)
    assert facts.scheduler["_class_name"] == "PNDMScheduler"
    assert (facts.scheduler["clip_sample"], facts.scheduler["steps_offset"]) == (False, 1)
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert (facts.max_tokens, facts.bos_token_id, facts.eos_token_id, facts.pad_token_id) == (77, *ids)
    assert np.array(facts.latent_rgb).shape == (5, 3)


@pytest.mark.parametrize("text", ["", "a cat", "A  (cat:1.3),\tÉ 🐱 <|endoftext|>!", "cat " * 200])
def test_tokenizer_gives_the_ids_of_transformers(full: Made, text: str) -> None:
    ours = Tokenizer.from_file(str(full.repository / "sd15" / "1" / "tokenizer.json"))

    with onnx_export.quiet():
        theirs = full.pipeline.tokenizer(text, truncation=False, padding=False).input_ids

    assert ours.encode(text).ids == theirs


# --- another checkpoint in the same repository


def test_a_second_run_has_nothing_to_do(full: Made) -> None:
    before = {path: path.stat().st_mtime_ns for path in full.repository.rglob("*") if path.is_file()}

    output = export("sd15", "--checkpoint", full.checkpoint, "--output", full.repository).output

    names = [*("sd15_text_encoder", "sd15_vae_encoder", "sd15_vae_decoder", "sd15_unet", "sd15", "sd15_unet_canny")]
    assert output.splitlines() == [f"{name}: up to date (fp32)" for name in names]
    assert before == {path: path.stat().st_mtime_ns for path in full.repository.rglob("*") if path.is_file()}


def test_another_base_takes_the_control_unet_with_it(full: Made, half: Made) -> None:
    """`half` was made in a copy of `full`: its control UNet is of the new base, from the ControlNet that was noted."""
    assert "sd15_unet_canny: exported (fp16" in half.output
    control = manifest.read(half.repository / "sd15_unet_canny" / "1")
    assert controls.belongs(control, controls.base_of(half.repository))
    assert not controls.belongs(control, controls.base_of(full.repository))
    assert half.output.count("exported") == 6


def test_a_stale_control_unet_without_its_controlnet_is_removed(full: Made, half: Made, tmp_path: Path) -> None:
    """The plain UNet is of another base, and the folder of the ControlNet is gone."""
    repository = tmp_path / "models"
    shutil.copytree(half.repository, repository)
    canny = repository / "sd15_unet_canny"
    shutil.rmtree(canny)
    shutil.copytree(full.repository / "sd15_unet_canny", canny)
    noted = (canny / "1" / "export.json").read_text()
    gone = manifest.read(canny / "1")
    assert gone is not None
    (canny / "1" / "export.json").write_text(noted.replace(gone.sources["controlnet"].name, str(tmp_path / "gone")))

    output = export("sd15", "--checkpoint", half.checkpoint, "--output", repository).output

    last = output.splitlines()[-1]
    assert last.startswith("sd15_unet_canny: removed, it was made for another checkpoint. ")
    assert "gone" in last
    assert not canny.exists()
    assert "sd15_unet_canny" not in {spec.name for spec in specs_of(repository)}
    export("config", "--output", repository)
    export("config", "--output", repository, "--check")
    assert not canny.exists()


def test_a_controlnet_of_another_base_is_refused(half: Made, full: Made, controlnet_folder: Path) -> None:
    arguments = ("--checkpoint", full.checkpoint, "--output", half.repository)
    with pytest.raises(ExportError, match=r"sd15_unet in .* is of another checkpoint, .*; run first: python -m"):
        export("sd15-controlnet", "--controlnet", controlnet_folder, *arguments)


def test_labelled_checkpoint_is_exported_as_the_plain_one(full: Made, controlnet_folder: Path, tmp_path: Path) -> None:
    """Into a repository that has nothing else: the same bytes under other names, each with its config."""
    output = export("export", full.checkpoint, "--as", "photos", "--output", tmp_path).output
    assert output.startswith(
        "tiny is a Stable Diffusion 1.5 checkpoint (StableDiffusionPipeline): exporting as sd15.photos"
    )
    export("sd15-controlnet", "--as", "photos", "--controlnet", controlnet_folder, "--output", tmp_path)
    names = {spec.name for spec in networks.specs()}
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.photos" for name in names}
    for name in names:
        for path in (full.repository / name / "1").iterdir():
            if path.name not in ("export.json", "model.py"):
                assert (tmp_path / f"{name}.photos" / "1" / path.name).read_bytes() == path.read_bytes(), path
    assert config.drift(tmp_path, [spec.labelled("photos") for spec in networks.specs()], Placement()) == ""
    assert export("export", full.checkpoint, "--as", "photos", "--output", tmp_path).output.count("up to date") == 6


# --- the comparison notices


def test_other_weights_are_not_installed(full: Made) -> None:
    wanted = plans.plan_of(networks.UNET)
    unet = weights.load("unet", weights.read_checkpoint(full.checkpoint).unet)
    with torch.no_grad():
        unet.conv_out.weight.mul_(1.01)
    model = full.repository / "sd15_unet" / "1" / "model.onnx"

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


# --- large models


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


# --- attention


def test_attention_is_one_operator_and_can_be_spelled_out(made: Made, tmp_path: Path) -> None:
    """Engines that do not know ONNX Runtime's operator get the same graph in ONNX's own ones."""
    spec = networks.CONTROL_UNETS["canny"]
    model = onnx.load(made.repository / spec.name / "1" / "model.onnx")
    fused = sum(node.op_type == OPERATOR for node in model.graph.node)
    attentions = [module for module in made.pipeline.unet.modules() if isinstance(module, Attention)]
    assert fused > len(attentions) > 0

    spell_out(model)

    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert {entry.domain for entry in model.opset_import} <= {"", "pkg.onnxscript.torch_lib.common"}
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    inputs = {"latents": noise(2, 4, 9, 13), "timestep": np.array([[999], [3]], np.float32)}
    inputs |= {"prompt_embeds": noise(2, 77, WIDTH, seed=1), "control_image": pixels(2, 72, 104, 3)}
    inputs["controlnet_conditioning_scale"] = np.ones((2, 1), np.float32)
    theirs = torch.tensor(made.network(spec).run(inputs)["noise_pred"])
    agree(OrtNetwork(path).run(inputs)["noise_pred"], theirs, made.precision)
