"""Where the time of a denoising step goes, with one client: what the service adds to the bare loop, taken apart."""

from __future__ import annotations

import statistics
from functools import partial

from benchmarks.clients import Rest
from benchmarks.context import Context
from benchmarks.metrics import Durations
from benchmarks.results import Cell, Section, Table
from benchmarks.sd15.caps import unet_inputs
from benchmarks.sd15.jobs import make_jobs
from benchmarks.sd15.loop import Loop, exported, text_width
from benchmarks.timing import in_turns, timed
from darkroom.pipelines.sd15.networks import UNET, VAE_SCALE_FACTOR
from darkroom.serving.networks import OrtNetwork

_SHORT, _LONG = 10, 40
"""Steps of two jobs: what the longer one takes more is steps alone, without text encoder, VAE, PNG and HTTP."""
_SIDES = {128: 12, 256: 5}
_QUICK_SIDES = {128: 1}
_SERVICE, _LOOP, _NETWORK = "service", "loop", "network"


def run(context: Context) -> Section:
    """Milliseconds of a step's parts, by the size of the image."""
    loop, network = Loop(context.repository), OrtNetwork(exported(context.repository, UNET))
    width = text_width(context.repository)
    lines: list[tuple[Cell, ...]] = []
    with Rest(context.service) as rest:
        for side, rounds in (_QUICK_SIDES if context.quick else _SIDES).items():
            inputs = unet_inputs(2, side // VAE_SCALE_FACTOR, width)
            variants = {_NETWORK: timed(partial(network.run, inputs))}
            for steps in (_SHORT, _LONG):
                job = make_jobs(1, steps=steps, side=side)[0]
                variants[f"{_SERVICE} {steps}"] = timed(partial(rest.generate, job.body()))
                variants[f"{_LOOP} {steps}"] = timed(partial(loop.run, [job]))
            context.stage(f"parts of a step, {side}x{side}", rounds + 1)
            before = context.service.durations(UNET.name)
            seconds = in_turns(variants, rounds=rounds, on_round=context.step)
            spent = context.service.durations(UNET.name).since(before)
            medians = {name: statistics.median(values) * 1000 for name, values in seconds.items()}
            lines += [(f"{side}x{side}", name, ms) for name, ms in parts(medians, spent).items()]
    table = Table(
        title="Parts of a step of one job with guidance (2 rows)",
        columns=("picture", "part", "ms"),
        rows=tuple(lines),
        note=f"A step is the difference of jobs of {_LONG} and {_SHORT} steps, divided by {_LONG - _SHORT}; the rest "
        "of a job is what remains. `network` parts are Triton's own counters. Medians of jobs, means of the counters.",
    )
    return Section(name="sd15_step_parts", title="Text to image, where a step's time goes", tables=(table,))


def parts(medians: dict[str, float], spent: Durations) -> dict[str, float]:
    """Milliseconds by part, of the medians of whole jobs and of the network's counters during them."""
    rest: dict[str, float] = {}
    step: dict[str, float] = {}
    for who in (_SERVICE, _LOOP):
        step[who] = (medians[f"{who} {_LONG}"] - medians[f"{who} {_SHORT}"]) / (_LONG - _SHORT)
        rest[who] = medians[f"{who} {_SHORT}"] - _SHORT * step[who]
    per_call = {name: value * 1000 / spent.executions for name, value in spent.seconds.items()}
    return {
        "step of the service": step[_SERVICE],
        "- outside of the network model: loop, guidance, scheduler, the call": step[_SERVICE] - per_call["request"],
        "- network model, queue and batcher": per_call["queue"],
        "- network model, its process and tensors to and from it": per_call["compute_input"]
        + per_call["compute_output"],
        "- network model, execute": per_call["compute_infer"],
        "step of the bare loop": step[_LOOP],
        "- its call of the UNet": medians[_NETWORK],
        "rest of a job, service": rest[_SERVICE],
        "rest of a job, bare loop": rest[_LOOP],
    }
