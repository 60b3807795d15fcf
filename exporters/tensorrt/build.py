"""Builds an engine with TensorRT (10 or 11) on the GPU of this process.

API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api. TensorRT 11 knows strongly typed
networks only, and has no FP16 and BF16 flags any more.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from darkroom.files import write_atomically
from exporters.errors import ExportError
from exporters.tensorrt.graph import for_tensorrt
from exporters.tensorrt.plan import GIB, EnginePlan
from exporters.tensorrt.progress import Phases

Report = Callable[[float, str], None]
"""Told the share of the build that is done, 0..1, and what it is at."""

_MEMORY_WORDS = ("out of memory", "outofmemory", "insufficient memory", "memory allocation", "allocate memory")


def load_tensorrt() -> Any:
    """The module `tensorrt`.

    :raises ExportError: it is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError, RuntimeError) as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f" ({(str(error).splitlines() or ['no reason'])[0]})"
        raise ExportError(
            f"TensorRT cannot be imported{reason}. An engine works with its own version only, so install that of the "
            "Triton server that will load it (pip install tensorrt==10.13.*, for example), or run this inside the "
            "server's container."
        ) from None


def build(trt: Any, plan: EnginePlan, onnx_file: Path, *, timing_cache: Path, report: Report) -> bytes:
    """The serialised engine of a plan.

    :param trt: the module `tensorrt`.
    :param timing_cache: kept between builds of one GPU architecture and TensorRT version; made when it is not there.
    :raises ExportError: TensorRT cannot read the model, cannot build it, or has no memory for it.
    :raises KeyboardInterrupt: Ctrl-C; the timings so far are kept.
    """
    log = _logger(trt)
    try:
        builder = trt.Builder(log)
    except (RuntimeError, TypeError):
        raise ExportError(f"TensorRT cannot start: {_reasons(log)}.") from None
    network = builder.create_network(_network_flags(trt, plan))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(for_tensorrt(onnx_file), str(onnx_file)):  # the path, so that it finds model.onnx.data
        raise ExportError(f"{plan.model}: TensorRT cannot read model.onnx: {_parser_errors(parser)}.")
    config = _config(trt, builder, plan)
    timings = _timings(config, timing_cache)
    with _interruptible() as stop:
        config.progress_monitor = _monitor(trt, Phases(), stop, report)
        engine = builder.build_serialized_network(network, config)
    with contextlib.suppress(OSError):  # only the next build's time
        write_atomically(timing_cache, bytes(timings.serialize()))
    if stop.is_set():
        raise KeyboardInterrupt
    if engine is None:
        raise ExportError(_build_failure(plan, log))
    return bytes(engine)


def _network_flags(trt: Any, plan: EnginePlan) -> int:
    """:raises ExportError: this TensorRT leaves no choice of types, and the plan needs one."""
    if plan.strongly_typed:
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    missing = [flag for flag in plan.flags if not hasattr(trt.BuilderFlag, flag)]
    if missing:
        raise ExportError(
            f"{plan.model}: TensorRT {trt.__version__} takes the types of the ONNX model, which is "
            f"{plan.graph_precision}; export it with --precision {plan.precision} first, or build a "
            f"{plan.graph_precision} engine."
        )
    return 0


def _config(trt: Any, builder: Any, plan: EnginePlan) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace)
    for flag in plan.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if plan.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of mantissa are no fp32
    for number, wanted in enumerate(plan.profiles):
        profile = builder.create_optimization_profile()
        for name, shapes in wanted.shapes.items():
            profile.set_shape(name, shapes.minimum, shapes.optimum, shapes.maximum)
        if config.add_optimization_profile(profile) != number:
            raise ExportError(f"{plan.model}: TensorRT refuses the profile {wanted.name!r}.")
    return config


def _timings(config: Any, path: Path) -> Any:
    """The timing cache of the config: that of the file, or an empty one where the file is missing or unfit."""
    for content in ([path.read_bytes()] if path.is_file() else []) + [b""]:
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            break
    return cache


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    texts = []
    for error in errors:
        where = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_name() else ""
        texts.append(where + " ".join(error.desc().split()))
    return "; ".join(texts) or "it gives no reason"


def _build_failure(plan: EnginePlan, log: Any) -> str:
    reasons = _reasons(log)
    said = " ".join(log.errors).lower()
    if any(word in said for word in _MEMORY_WORDS) and "driver version" not in said:
        return (
            f"{plan.model}: the GPU has too little memory for batches of {plan.max_batch} at the largest size with "
            f"{plan.workspace / GIB:g} GiB of workspace ({reasons}). Stop what else uses the GPU, or give a smaller "
            "--max-batch, --max-side or --workspace-gib."
        )
    return f"{plan.model}: TensorRT cannot build the engine: {reasons}."


def _reasons(log: Any) -> str:
    """What TensorRT has logged, without what it says again and again."""
    texts = list(dict.fromkeys(" ".join(text.split()) for text in log.errors))
    more = f"; and {len(texts) - 4} more errors" if len(texts) > 4 else ""
    return ("; ".join(text[:400] for text in texts[:4]) or "it gives no reason") + more


def _logger(trt: Any) -> Any:
    """A tensorrt.ILogger that keeps the errors and drops the rest."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def _monitor(trt: Any, phases: Phases, stop: threading.Event, report: Report) -> Any:
    """A tensorrt.IProgressMonitor, which TensorRT may call from several threads."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)
            report(phases.share(), phase_name)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)
            report(phases.share(), phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            report(phases.share(), phase_name)
            return not stop.is_set()

    return Monitor()


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, and the monitor ends the build: an exception must not go through TensorRT."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
