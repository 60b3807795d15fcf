"""`python -m exporters`: the commands that fill the model repository."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from darkroom.registry import all_specs
from exporters import config
from exporters.errors import ExportError
from exporters.hidream.command import hidream
from exporters.options import output_option
from exporters.prepare import prepare
from exporters.realesrgan.command import realesrgan
from exporters.sd15.command import sd15, sd15_controlnet
from exporters.sd15.controls import specs_of
from exporters.tensorrt.command import tensorrt
from exporters.tensorrt.engines import to_serve


def _gpu_numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """ "0,1,2" -> (0, 1, 2)."""
    if value is None:
        return ()
    words = value.split(",")
    if not all(word.isascii() and word.isdigit() and int(word) < 64 for word in words):
        raise click.BadParameter(f"must be GPU numbers from 0 to 63 with commas between them; got {value!r}.")
    numbers = tuple(int(word) for word in words)
    if len(set(numbers)) != len(numbers):
        raise click.BadParameter(f"must name every GPU once; got {value!r}.")
    return numbers


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Examples:
  python -m exporters prepare                what ./start.sh does: everything for this machine
  python -m exporters realesrgan             export the upscalers (about a minute, once)
  python -m exporters sd15                   export text to image
  python -m exporters sd15-controlnet        export a UNet that follows edges
  python -m exporters hidream                export text to image with HiDream-I1
  python -m exporters config                 write every config.pbtxt for this checkout: ONNX on the CPU
  python -m exporters config --gpus 0,1      the same for two GPUs
  python -m exporters tensorrt               build TensorRT engines of what is exported
  python -m exporters config --check         fail when a committed config.pbtxt drifted""",
)
def main() -> None:
    """Fill the model repository: checkpoints to ONNX, each compared with its original, and Triton's configs."""


@main.command(
    "config",
    epilog="""\b
Examples:
  python -m exporters config --check
  python -m exporters config --gpus 0,1,2 --max-batch 8
  python -m exporters config --engine tensorrt --gpus 0 --model sd15_unet
  python -m exporters config --instances 2 --threads 4 --output /srv/models""",
)
@click.option("--check", is_flag=True, help="Write nothing; show what would change, and exit with 1 if anything would.")
@click.option("--gpus", callback=_gpu_numbers, help="GPU numbers, as 0,1,2: one instance each. Default: the CPU.")
@click.option(
    "--engine",
    type=click.Choice(["onnx", "tensorrt"]),
    default="onnx",
    show_default=True,
    help="What runs the networks; tensorrt needs --gpus, and engines that were built before.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice([spec.name for spec in all_specs()]),
    metavar="NAME",
    help="Only this model's config; may be repeated. Default: all.",
)
@click.option("--max-batch", type=click.IntRange(1, 64), help="Largest batch. Default: what suits each network.")
@click.option("--instances", type=click.IntRange(1, 16), default=1, show_default=True, help="Instances per device.")
@click.option(
    "--queue-delay-us",
    type=click.IntRange(0, 1_000_000),
    default=0,
    show_default=True,
    help="How long a batch waits for company, in microseconds.",
)
@click.option("--threads", type=click.IntRange(1, 256), help="Threads per CPU instance. Default: all cores.")
@output_option("The model repository.")
def config_command(
    check: bool,
    gpus: tuple[int, ...],
    engine: str,
    models: tuple[str, ...],
    max_batch: int | None,
    instances: int,
    queue_delay_us: int,
    threads: int | None,
    output: Path,
) -> None:
    """Write config.pbtxt of every model, or check the written ones.

    The committed files are those for ONNX Runtime on the CPU; they do not depend on the machine.
    """
    placement = config.Placement(
        gpus=gpus, instances=instances, max_batch=max_batch, queue_delay_us=queue_delay_us, threads=threads
    )
    specs = [spec for spec in specs_of(output) if not models or spec.name in models]
    if engine == "tensorrt":
        if not gpus:
            raise ExportError("--engine tensorrt needs --gpus: an engine runs on a GPU only.")
        placement = replace(placement, engines=to_serve(output, specs, gpus))
    if check:
        changes = config.drift(output, specs, placement)
        click.echo(changes, nl=False)
        if changes:
            click.echo("The configs drifted; run: python -m exporters config", err=True)
            sys.exit(1)
        click.echo(f"{len(specs)} configs are as rendered.")
        return
    changed = config.write_configs(output, specs, placement)
    for path in changed:
        click.echo(f"{path.parent.name}: config.pbtxt written")
    click.echo(f"{len(specs)} configs, {len(changed)} changed.")


main.add_command(realesrgan)
main.add_command(sd15)
main.add_command(sd15_controlnet)
main.add_command(hidream)
main.add_command(tensorrt)
main.add_command(prepare)


def run(arguments: list[str] | None = None) -> None:
    """The program: `main` with this package's errors as one sentence on stderr and exit code 1."""
    try:
        main(arguments, prog_name="python -m exporters")
    except ExportError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
