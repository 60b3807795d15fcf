"""Benchmarks of text to image: the baseline against diffusers, the reading of figures, links, reports."""

from __future__ import annotations

import base64
import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion
from PIL import Image
from transformers import CLIPTokenizer

from benchmarks import machine
from benchmarks.__main__ import main
from benchmarks.baseline.generator import Generator
from benchmarks.baseline.request import GenerateBody
from benchmarks.clients import Rest, closed_loop
from benchmarks.context import CHECKPOINT, REPOSITORY
from benchmarks.errors import BenchmarkError
from benchmarks.gpu_sd15 import report
from benchmarks.gpu_sd15.__main__ import main as gpu_main
from benchmarks.gpu_sd15.networks import compare
from benchmarks.gpu_sd15.plan import COMPILED, EAGER, FULL, OURS, TINY, Work
from benchmarks.metrics import Counts, Durations, counter, counts
from benchmarks.processes import Server, started
from benchmarks.results import described
from benchmarks.sd15 import caps, checkpoints, step_parts, throughput
from benchmarks.sd15.jobs import Job, content, make_jobs, pictures, require_same
from benchmarks.sd15.loop import Loop
from benchmarks.sd15.perf import request_data
from benchmarks.sd15.queue_delay import link_repository
from benchmarks.subjects import running_baseline
from darkroom.diffusion.controls import ControlOptions, load_control
from darkroom.pipelines.sd15 import networks
from exporters.config import Placement
from tests import tiny_sd15
from tests.pictures import encoded, photo
from training.tokens import write_tokenizer

SIDE = tiny_sd15.SIDE
JOB = Job(prompt="a cat on a blue background", seed=5, steps=3, side=SIDE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny checkpoint and a ControlNet for it, on disk."""
    folder = tmp_path_factory.mktemp("tiny")
    pipeline = tiny_sd15.make_pipeline(folder / "parts")
    pipeline.save_pretrained(folder / "sd15")
    write_tokenizer(folder / "sd15" / "tokenizer")
    tiny_sd15.make_controlnet(pipeline.unet).save_pretrained(folder / "canny")
    return folder / "sd15", folder / "canny"


@pytest.fixture(scope="module")
def baseline(folders: tuple[Path, Path]) -> Iterator[Server]:
    checkpoint, controlnet = folders
    with running_baseline(checkpoint, "--controlnet", str(controlnet), "--threads", "1") as server:
        yield server


@pytest.fixture(scope="module")
def pipeline(folders: tuple[Path, Path]) -> StableDiffusionPipeline:
    found = StableDiffusionPipeline.from_pretrained(folders[0])
    found.set_progress_bar_config(disable=True)
    return found


def _pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_baseline_makes_the_pictures_of_diffusers(baseline: Server, pipeline: StableDiffusionPipeline) -> None:
    body = JOB.body() | {"num_images": 2, "negative_prompt": "a pizza"}
    with Rest(baseline) as rest:
        answer = rest.generate(body)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    expected = pipeline(
        JOB.prompt, negative_prompt="a pizza", num_inference_steps=3, guidance_scale=7.5, width=SIDE, height=SIDE,
        num_images_per_prompt=2, generator=generators,
    ).images  # fmt: skip
    assert answer["seed"] == 5
    for data, image in zip(pictures(answer), expected, strict=True):
        assert np.abs(_pixels(data).astype(int) - np.asarray(image)).max() <= 1
    assert answer["timings"]["generated"] > answer["timings"]["encoded"] > 0


def test_the_baseline_draws_its_noise_in_single_precision(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision, too, where what the pipeline itself draws depends on the version of torch."""
    monkeypatch.setattr(pipeline_stable_diffusion, "randn_tensor", None)
    body = GenerateBody(**JOB.body())
    single, half = (
        np.asarray(Generator(folders[0], dtype=dtype, threads=1)(body, JOB.seed, None)[0]).astype(int)
        for dtype in (torch.float32, torch.float16)
    )
    assert np.abs(single - half).mean() < 1  # 0.2; with another seed 106


def test_the_baseline_follows_the_edges_of_a_picture(
    baseline: Server, folders: tuple[Path, Path], pipeline: StableDiffusionPipeline
) -> None:
    data = encoded(photo(150, 80, SIDE, SIDE))
    body = JOB.body() | {"control_image": "data:image/png;base64," + base64.b64encode(data).decode()}
    with Rest(baseline) as rest:
        controlled = _pixels(pictures(rest.generate(body))[0])
        plain = _pixels(pictures(rest.generate(JOB.body()))[0])
    edges = load_control("canny").preprocess(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), ControlOptions())
    reference = tiny_sd15.controlled_pipeline(pipeline, tiny_sd15.make_controlnet(pipeline.unet))
    (expected,) = reference(
        JOB.prompt, image=Image.fromarray(edges), num_inference_steps=3, guidance_scale=7.5, width=SIDE, height=SIDE,
        generator=torch.Generator().manual_seed(5),
    ).images  # fmt: skip
    assert np.abs(controlled.astype(int) - np.asarray(expected)).max() <= 1
    assert np.abs(controlled.astype(int) - plain).max() > 1


def test_the_baseline_runs_one_job_at_a_time(baseline: Server) -> None:
    jobs = make_jobs(3, steps=40, side=SIDE)
    done: list[int] = []
    began = time.monotonic()
    answers = closed_loop(baseline, [job.post() for job in jobs], clients=3, on_done=done.append)
    seconds = time.monotonic() - began
    assert done == [1, 2, 3]
    assert {content(answer)["seed"] for answer in answers} == {job.seed for job in jobs}
    timings = [content(answer)["timings"] for answer in answers]
    assert min(found["generated"] for found in timings) > 0.1
    assert sum(found["generated"] for found in timings) <= seconds


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": "a cat", "width": 100}, "width"),
        ({"prompt": "a cat", "sampler": "ddim"}, "sampler"),
        ({"steps": 3}, "prompt"),
        ({"prompt": "a cat", "control_image": "AAAA"}, "control_image is not a base64 picture"),
    ],
)
def test_the_baseline_refuses(baseline: Server, fields: dict[str, Any], words: str) -> None:
    answer = httpx.post(f"{baseline.url}/generate", json=fields)
    assert answer.status_code == 422
    assert words in answer.text


def test_a_failing_request_ends_the_load(baseline: Server) -> None:
    posts = [make_jobs(1, steps=0, side=SIDE)[0].post()] * 3
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        closed_loop(baseline, posts, clients=2)


def test_no_checkpoint_no_baseline(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="is not there"), running_baseline(tmp_path / "none"):
        pass


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no weights')"]
    with started(command, tmp_path, settings={}) as process:
        server = Server(process=process, url="http://127.0.0.1:9", folder=tmp_path)
        with pytest.raises(BenchmarkError, match="ended with code 1:\nno weights"):
            server.wait_healthy(30)
    assert "no weights" in server.log()


def test_jobs_have_seeds_of_their_own() -> None:
    jobs = make_jobs(20, steps=4, side=SIDE)
    assert len({job.seed for job in jobs}) == 20
    assert jobs[0].prompt != jobs[1].prompt
    assert jobs[0].body() | {"seed": 0} == jobs[8].body() | {"seed": 0}


def test_pictures_must_be_the_same() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    one, two, other = (_png(grey + step) for step in (0, 2, 3))
    require_same([one], [two], "they")
    with pytest.raises(BenchmarkError, match=r"they made different pictures .* \(by 3 of 255 levels\)"):
        require_same([one], [other], "they")


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(target, "PNG")
    return target.getvalue()


def test_the_bare_loop_makes_the_pictures_of_diffusers() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(CHECKPOINT)
    pipeline.set_progress_bar_config(disable=True)
    jobs = make_jobs(3, steps=2, side=SIDE)
    found = Loop(REPOSITORY).run(jobs)
    assert len(found) == 3
    for job, data in zip(jobs, found, strict=True):
        generator = torch.Generator().manual_seed(job.seed)
        (image,) = pipeline(
            job.prompt, num_inference_steps=2, guidance_scale=7.5, width=SIDE, height=SIDE, generator=generator
        ).images
        require_same([data], [_png(np.asarray(image))], "the loop")


@pytest.mark.parametrize(
    ("per_row", "best"),
    [
        ({1: 10.0, 2: 9.0, 4: 8.0, 8: 7.9, 16: 7.8}, 4),
        ({1: 10.0, 2: 9.8, 4: 9.7}, 1),
        ({1: 10.0, 2: 11.0, 4: 5.0}, 4),
        ({1: 10.0, 2: 5.0, 4: 9.0}, 2),
    ],
)
def test_best_rows_is_the_smallest_that_no_larger_one_beats(per_row: dict[int, float], best: int) -> None:
    assert caps.best_rows(per_row) == best


def test_the_table_of_rows() -> None:
    (one, two) = caps.as_rows({16: {1: [0.010, 0.030], 2: [0.010, 0.030]}})
    assert (one["ms"], one["speedup"]) == (pytest.approx(20), pytest.approx(1))
    assert (two["ms_per_row"], two["speedup"]) == (pytest.approx(10), pytest.approx(2))
    assert two["ms_per_row_all"] == pytest.approx([5, 15])


METRICS = """\
# TYPE nv_inference_count counter
nv_inference_count{model="sd15_unet",version="1"} 336
nv_inference_count{model="sd15_unet_canny",version="1"} 9
nv_inference_exec_count{model="sd15_unet",version="1"} 4.2e+01
nv_cpu_utilization 0.5
"""


def test_metrics_of_one_model() -> None:
    assert counts(METRICS, "sd15_unet") == Counts(rows=336, executions=42)
    assert counter(METRICS, "nv_inference_count", "sd15_unet_canny") == 9
    with pytest.raises(BenchmarkError, match="no nv_inference_count of sd15"):
        counter(METRICS, "nv_inference_count", "sd15")


def test_a_step_is_what_more_steps_take_more() -> None:
    medians = {"service 10": 260.0, "service 40": 950.0, "loop 10": 220.0, "loop 40": 820.0, "network": 18.0}
    counted = {"request": 2.1, "queue": 0.01, "compute_input": 0.02, "compute_infer": 2.0, "compute_output": 0.03}
    before = Durations(executions=5, seconds={name: value / 2 for name, value in counted.items()})
    found = list(step_parts.parts(medians, Durations(executions=105, seconds=counted).since(before)).values())
    service, outside, queue, transport, execute, loop, network, rest_service, rest_loop = found
    assert (service, loop, network) == (23.0, 20.0, 18.0)
    assert (queue, transport, execute) == pytest.approx((0.05, 0.25, 10.0))
    assert outside == pytest.approx(23.0 - 10.5)
    assert (rest_service, rest_loop) == (30.0, 20.0)


def _repository(folder: Path) -> Path:
    for spec in (networks.UNET, networks.PIPELINE):
        for name in spec.files:
            path = folder / spec.name / "1" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    return folder


def test_a_linked_repository_has_its_own_configs(tmp_path: Path) -> None:
    source, target = _repository(tmp_path / "source"), tmp_path / "target"
    specs = (networks.UNET, networks.PIPELINE)
    link_repository(source, target, specs, Placement(queue_delay_us=2000, max_batch=8))
    assert (target / "sd15_unet" / "1" / "model.onnx").read_text() == "model.onnx"
    assert (target / "sd15" / "1" / "model.py").is_file()
    assert not (source / "sd15" / "1" / "model.py").exists()
    text = (target / "sd15_unet" / "config.pbtxt").read_text()
    assert "max_queue_delay_microseconds: 2000" in text
    assert throughput.max_batch_size(target) == 8


def test_a_repository_without_weights_cannot_be_linked(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"sd15_unet/1/model\.onnx is not there"):
        link_repository(tmp_path, tmp_path / "target", [networks.UNET], Placement())


def test_rows_as_a_share_of_the_cap(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="does not say max_batch_size"):
        throughput.max_batch_size(tmp_path)
    link_repository(_repository(tmp_path / "s"), tmp_path / "t", [networks.UNET], Placement(max_batch=16))
    finding = throughput.sharing(Counts(rows=64, executions=5), tmp_path / "t", "(x)")
    assert (finding.value, finding.met) == (pytest.approx(0.8), True)
    assert throughput.sharing(Counts(rows=60, executions=5), tmp_path / "t", "(x)").met is False
    with pytest.raises(BenchmarkError, match="no execution"):
        throughput.sharing(Counts(rows=0, executions=0), tmp_path / "t", "(x)")


def test_perf_analyzer_request_names_inputs_of_the_pipeline() -> None:
    (request,) = json.loads(request_data(JOB))["data"]
    assert set(request) <= {tensor.name for tensor in networks.PIPELINE.inputs}
    assert (request["prompt"], request["steps"], request["width"]) == ([JOB.prompt], [3], [SIDE])


def test_a_random_checkpoint_is_a_pipeline_and_always_the_same(tmp_path: Path) -> None:
    weights = []
    for name in ("one", "two"):
        checkpoints.write_checkpoint(tmp_path / name, size="demo", dtype=torch.float16)
        loaded = StableDiffusionPipeline.from_pretrained(tmp_path / name)
        weights.append(loaded.unet.conv_in.weight)
    assert torch.equal(*weights)
    assert torch.equal(weights[0], weights[0].half().float())
    assert loaded.tokenizer("a cat").input_ids[0] == loaded.tokenizer.bos_token_id


def test_the_full_size_is_stable_diffusion_1_5() -> None:
    with torch.device("meta"):
        unet, vae = checkpoints.make_unet(), checkpoints.make_vae()
    # As the files of runwayml/stable-diffusion-v1-5 hold them.
    assert sum(weight.numel() for weight in unet.parameters()) == 859_520_964
    assert sum(weight.numel() for weight in vae.parameters()) == 83_653_863


def test_the_full_size_text_encoder_is_clip_l(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(str(tmp_path))
    with torch.device("meta"):
        encoder = checkpoints.make_text_encoder(tokenizer)
    assert sum(weight.numel() for weight in encoder.parameters()) == 123_060_480
    assert encoder.config.eos_token_id == tokenizer.eos_token_id


def _measured(work: Work, name: str, *, seconds: float, grey: int, **more: Any) -> None:
    jobs = [{"seconds": seconds, "generated": seconds / 2, "encoded": 0.01} for _ in range(8)]
    if name == OURS:
        jobs = [{"seconds": seconds} for _ in range(8)]
    together = {"seconds": 8 * seconds, "jobs": jobs}
    work.write(name, {"quick": False, "alone": jobs[:2], "together": together, **more})
    work.picture(name).write_bytes(_png(np.full((8, 8, 3), grey)))


def test_gpu_report(tmp_path: Path) -> None:
    work = Work(folder=tmp_path / "work")
    work.set_case(TINY)
    with pytest.raises(BenchmarkError, match="no results"):
        report.write(work, tmp_path)
    _measured(work, OURS, seconds=1.0, grey=100, provider="CPUExecutionProvider", triton="2", rows_per_execution=7.5)
    batch = [{"seconds": 4.0, "generated": 3.0, "encoded": 0.1}]
    _measured(work, EAGER, seconds=2.0, grey=101, compile_mode=None, batch=batch)
    json_file, page = report.write(work, tmp_path / "out")
    section = json.loads(json_file.read_text())["sections"][0]
    values = [finding["value"] for finding in section["findings"]]
    # latency, the same against the pipeline alone, images/s, the same against batches of 8, likeness
    assert values == pytest.approx([0.5, 1.0, 2.0, 0.5, 1.0])
    assert section["missing"] == f"{COMPILED} was not measured"
    assert "| darkroom | 8 | 8 | 1 |" in page.read_text()
    assert "python -m benchmarks.gpu_sd15" in page.read_text()


def test_gpu_work_folder_keeps_to_its_case(tmp_path: Path) -> None:
    work = Work(folder=tmp_path)
    with pytest.raises(BenchmarkError, match="is not prepared"):
        work.case()
    work.set_case(FULL)
    work.set_case(FULL)
    assert work.case() == FULL
    with pytest.raises(BenchmarkError, match="another case"):
        work.set_case(TINY)


def test_gpu_command_needs_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    result = CliRunner().invoke(gpu_main, ["prepare", "--work", str(tmp_path)])
    assert isinstance(result.exception, BenchmarkError)
    assert "--tiny" in str(result.exception)
    assert not (tmp_path / "checkpoint").exists()


def test_networks_are_compared_with_diffusers(tmp_path: Path) -> None:
    """What is for a GPU in half precision, with the demo's networks on the CPU in fp32: one level of the decoder's 255
    is all that may differ."""
    work = Work(folder=tmp_path)
    work.set_case(TINY)
    work.checkpoint.symlink_to(CHECKPOINT)
    work.repository.symlink_to(REPOSITORY)
    said: list[str] = []
    found = compare(work, said.append)
    assert list(found) == ["sd15_text_encoder", "sd15_unet", "sd15_vae_decoder"]
    for name, differences in found.items():
        assert differences["onnxruntime"] <= (1 / 255 if name == "sd15_vae_decoder" else 1e-4), name
        assert differences["diffusers"] == 0
    assert len(said) == 3


def test_gpu_phases_go_on_where_they_stopped(tmp_path: Path) -> None:
    work = Work(folder=tmp_path)
    work.set_case(TINY)
    _measured(work, OURS, seconds=1.0, grey=100, provider=None, triton="2", rows_per_execution=2.0)
    result = CliRunner().invoke(gpu_main, ["serve-and-measure", "--work", str(tmp_path), "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "measured already" in result.output
    assert "written: " in result.output


def test_a_machine_with_a_gpu_is_named_after_it() -> None:
    found = {"cpu": "Some CPU", "cores": "16", "gpu": "NVIDIA H100 80GB HBM3"}
    assert machine.slug(found) == "nvidia-h100-80gb-hbm3"
    assert described(found) == "NVIDIA H100 80GB HBM3, Some CPU, 16 cores"


def test_options_for_another_checkpoint() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    assert all(option in text for option in ("--repository", "--checkpoint"))
