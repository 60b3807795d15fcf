"""`python -m benchmarks.baseline`: runs the baseline alone."""

from __future__ import annotations

from pathlib import Path

import click

from darkroom.devices import core_count

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--checkpoint", type=_FOLDER, required=True, help="A folder in the diffusers layout.")
@click.option("--controlnet", type=_FOLDER, help="The folder of a Canny ControlNet, for requests with control_image.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=9000, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Of torch on the CPU. Default: one per core.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option(
    "--compile",
    "compile_mode",
    type=click.Choice(["default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune"]),
    help="torch.compile the UNet in this mode. The first job of each size then takes minutes.",
)
def main(
    checkpoint: Path,
    controlnet: Path | None,
    host: str,
    port: int,
    threads: int | None,
    device: str,
    dtype: str,
    compile_mode: str | None,
) -> None:
    """Serve POST /generate the plain way: diffusers' pipeline behind one lock."""
    import torch
    import uvicorn

    from benchmarks.baseline.app import create_app
    from benchmarks.baseline.generator import Generator

    generator = Generator(
        checkpoint,
        controlnet,
        device=device,
        dtype=getattr(torch, dtype),
        compile_mode=compile_mode,
        threads=threads or core_count(),
    )
    uvicorn.run(create_app(generator), host=host, port=port, log_level="warning")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.baseline")
