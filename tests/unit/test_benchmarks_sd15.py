"""Benchmarks of text to image: the baseline against diffusers, the reading of figures, links, reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from benchmarks.__main__ import main
from benchmarks.context import CHECKPOINT, REPOSITORY
from benchmarks.errors import BenchmarkError
from benchmarks.local import as_png
from benchmarks.metrics import Counts, Durations
from benchmarks.sd15 import caps, checkpoints, step_parts, throughput
from benchmarks.sd15.jobs import Job, make_jobs, require_same
from benchmarks.sd15.loop import Loop
from benchmarks.sd15.perf import request_data
from benchmarks.sd15.queue_delay import link_repository
from darkroom.pipelines.sd15 import networks
from exporters.config import Placement
from tests import tiny_sd15
from training.tokens import write_tokenizer

SIDE = tiny_sd15.SIDE
JOB = Job(prompt="a cat on a blue background", seed=5, steps=3, side=SIDE)


def test_jobs_have_seeds_of_their_own() -> None:
    jobs = make_jobs(20, steps=4, side=SIDE)
    assert len({job.seed for job in jobs}) == 20
    assert jobs[0].prompt != jobs[1].prompt
    assert jobs[0].body() | {"seed": 0} == jobs[8].body() | {"seed": 0}


def test_pictures_must_be_the_same() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    one, two, other = (as_png(grey + np.uint8(step)) for step in (0, 2, 3))
    require_same([one], [two], "they")
    with pytest.raises(BenchmarkError, match=r"they made different pictures .* \(by 3 of 255 levels\)"):
        require_same([one], [other], "they")


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
        require_same([data], [as_png(np.asarray(image))], "the loop")


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


def test_options_for_another_checkpoint() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    assert all(option in text for option in ("--repository", "--checkpoint"))
