"""`python -m exporters`: the commands that fill the model repository."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from exporters import config, registry, repository
from exporters.checkpoints.contents import PATTERNS, read_contents
from exporters.checkpoints.origin import origin
from exporters.errors import ExportError
from exporters.listing import list_command, remove
from exporters.options import cache_option, force_option, label_option, output_option, precision_option
from exporters.prepare import prepare
from exporters.tensorrt.cli import tensorrt
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
  python -m exporters export PATH_OR_ID      a checkpoint of any family, from a folder, a file or a hub
  python -m exporters list                   what is exported
  python -m exporters config                 write every config.pbtxt for this checkout: ONNX on the CPU
  python -m exporters config --gpus 0,1      the same for two GPUs
  python -m exporters tensorrt               build TensorRT engines of what is exported
  python -m exporters config --check         fail when a committed config.pbtxt drifted""",
)
def main() -> None:
    """Fill the model repository: checkpoints to ONNX, each compared with its original, and Triton's configs."""


@main.command(
    "export",
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  python -m exporters export /data/photos-v1.safetensors
  python -m exporters export /data/photos --as photos --precision fp16
  python -m exporters export owner/name@revision --output /srv/models
Options of the family's own command may stand behind PATH_OR_ID: python -m exporters COMMAND --help""",
)
@click.argument("checkpoint", metavar="PATH_OR_ID")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF THE FAMILY]")
@label_option
@precision_option
@output_option("The model repository to write to.")
@cache_option("Where downloads are kept.")
@force_option
@click.pass_context
def export_command(ctx: click.Context, /, checkpoint: str, options: tuple[str, ...], cache: Path, **given: Any) -> None:
    """Export a checkpoint of any family: a folder in the diffusers layout, a single .safetensors file, or a hub id.

    The family is found in its model_index.json, or in the names of the weights of a single file.
    """
    found = origin(checkpoint, Path.cwd(), cache, PATTERNS)
    contents = read_contents(found)
    family = registry.family_of(contents)
    label = f".{given['label']}" if given["label"] else ""
    form = contents.class_name or "a single file"
    click.echo(f"{contents.title} is a {family.kind} checkpoint ({form}): exporting as {family.name}{label}")
    command = family.commands[0]
    arguments = [*family.arguments(found.name, contents), *_given(ctx), *options]
    command.main(arguments, prog_name=f"python -m exporters {command.name}", standalone_mode=False)


def _given(ctx: click.Context) -> list[str]:
    """The options of this call, as they were given, for the command of a family."""
    words: list[str] = []
    for param in ctx.command.params:
        name = param.name or ""
        if isinstance(param, click.Option) and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            words += [param.opts[0]] if param.is_flag else [param.opts[0], str(ctx.params[name])]
    return words


@main.command(
    "config",
    epilog="""\b
Examples:
  python -m exporters config --check
  python -m exporters config --gpus 0,1,2 --max-batch 8
  python -m exporters config --engine tensorrt --gpus 0 --model NAME
  python -m exporters config --instances 2 --threads 4 --output /srv/models""",
)
@click.option("--check", is_flag=True, help="Write nothing; show what would change, and exit with 1 if anything would.")
@click.option("--gpus", callback=_gpu_numbers, help="GPU numbers, as 0,1,2: one instance each. Default: the CPU.")
@click.option(
    "--engine",
    type=click.Choice(["onnx", "tensorrt"]),
    default="onnx",
    show_default=True,
    help="Engine of the networks; tensorrt needs --gpus, and engines that were built before.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
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
    help="Time that an incomplete batch waits for more requests, in microseconds.",
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
    specs = repository.chosen(output, models, repository.specs_of(output))
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


for _family in registry.families().values():
    for _command in _family.commands:
        main.add_command(_command)
main.add_command(tensorrt)
main.add_command(prepare)
main.add_command(list_command)
main.add_command(remove)


def run(arguments: list[str] | None = None) -> None:
    """Run the program: `main`, with errors of this package as one sentence on stderr and exit code 1."""
    try:
        main(arguments, prog_name="python -m exporters")
    except ExportError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
