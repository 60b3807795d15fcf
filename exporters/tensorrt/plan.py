"""Plans an engine: its optimisation profiles, types and limits. Needs neither TensorRT nor a GPU."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from darkroom import pipelines
from darkroom.profiles import Axis, EngineSizes, Range, SizeClass
from darkroom.serving.networks import ModelSpec, split_label
from exporters.errors import ExportError
from exporters.tensorrt.graph import EnginePrecision, Graph, read_graph

SIDES = ("height", "width")
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The sizes of one input in one profile, batch first."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One optimisation profile: shapes of every input."""

    name: str
    shapes: Mapping[str, Shapes]


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """An engine to build.

    :param precision: the precision of most layers.
    :param graph_precision: the precision of the ONNX model. If it equals `precision`, the engine has the model's own
        types (a strongly typed network), with which the export was checked; else TensorRT chooses between both.
    :param workspace: bytes of scratch memory that a kernel may ask for.
    """

    model: str
    precision: EnginePrecision
    graph_precision: EnginePrecision
    max_batch: int
    workspace: int
    profiles: tuple[Profile, ...]

    @property
    def strongly_typed(self) -> bool:
        """Whether every layer has the type that it has in the ONNX model."""
        return self.precision == self.graph_precision

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of tensorrt.BuilderFlag that are set; TF32, which is on by default, is cleared for fp32."""
        return () if self.strongly_typed else (self.precision.upper(),)

    def facts(self) -> dict[str, Any]:
        """All facts that the engine depends on, as they are stored in engine.json."""
        return {
            "precision": self.precision,
            "graph_precision": self.graph_precision,
            "max_batch": self.max_batch,
            "workspace": self.workspace,
            "profiles": [
                {
                    "name": profile.name,
                    "shapes": {
                        name: [list(shapes.minimum), list(shapes.optimum), list(shapes.maximum)]
                        for name, shapes in profile.shapes.items()
                    },
                }
                for profile in self.profiles
            ],
        }


def engine_sizes() -> dict[str, EngineSizes]:
    """Return the sizes in the `profiles.py` of all families, by the model's name without a label."""
    sizes: dict[str, EngineSizes] = {}
    for module in pkgutil.iter_modules(pipelines.__path__):
        family = f"{pipelines.__name__}.{module.name}"
        if module.ispkg and any(part.name == "profiles" for part in _modules(family)):
            sizes |= importlib.import_module(f"{family}.profiles").SIZES
    return sizes


def _modules(family: str) -> list[pkgutil.ModuleInfo]:
    return list(pkgutil.iter_modules(importlib.import_module(family).__path__))


def make_plan(
    spec: ModelSpec,
    onnx_file: Path,
    *,
    precision: EnginePrecision | None = None,
    max_batch: int | None = None,
    max_side: int | None = None,
    workspace: int = 8 * GIB,
) -> EnginePlan:
    """Make the plan for a network of a family and its exported model.

    :param precision: None takes that of the ONNX model.
    :param max_batch: rows; None takes the largest batch of the spec, which is what Triton may send.
    :param max_side: in pixels; None takes the family's largest images.
    :param workspace: bytes.
    :raises ExportError: the model is not there or another one, or the wanted ranges make no sense.
    """
    sizes = engine_sizes().get(split_label(spec.name)[0])
    if sizes is None:
        raise ExportError(f"No profiles.py says what sizes an engine of {spec.name} has to take.")
    graph = read_graph(onnx_file)
    _check_inputs(spec, sizes, graph)
    wanted = precision or graph.precision
    if wanted != graph.precision and graph.precision != "fp32":
        raise ExportError(
            f"{spec.name}: model.onnx is {graph.precision}, of which no {wanted} engine can be made; export it with "
            f"--precision fp32 first, or build a {graph.precision} engine."
        )
    rows = spec.max_batch_size if max_batch is None else max_batch
    return EnginePlan(
        model=spec.name,
        precision=wanted,
        graph_precision=graph.precision,
        max_batch=rows,
        workspace=workspace,
        profiles=tuple(
            _profile(spec.name, sizes.axes, graph, entry, rows) for entry in _capped(spec.name, sizes, max_side)
        ),
    )


def _check_inputs(spec: ModelSpec, sizes: EngineSizes, graph: Graph) -> None:
    """:raises ExportError: model.onnx or the profiles are those of another interface."""
    expected = {tensor.name: len(tensor.dims) + 1 for tensor in spec.inputs}
    for what, found in (
        ("model.onnx", {name: len(dims) for name, dims in graph.inputs.items()}),
        ("profiles.py", {name: len(axes) + 1 for name, axes in sizes.axes.items()}),
    ):
        if found != expected:
            raise ExportError(
                f"{spec.name}: {what} has the inputs {_listed(found)}, expected {_listed(expected)}; export it again."
            )
    fixed = [name for name, dims in graph.inputs.items() if dims[0] is not None]
    if fixed:
        raise ExportError(f"{spec.name}: model.onnx fixes the batch of {', '.join(fixed)}; export it again.")


def _listed(ranks: Mapping[str, int]) -> str:
    return ", ".join(f"{name} of {rank} dimensions" for name, rank in sorted(ranks.items()))


def _capped(model: str, sizes: EngineSizes, max_side: int | None) -> list[SizeClass]:
    """Limit the size classes to images of `max_side` pixels a side; equal classes are merged.

    :raises ExportError: `max_side` is below the smallest image, or not a multiple of the network's step.
    """
    if max_side is None:
        return list(sizes.classes)
    steps = [axis.step for axes in sizes.axes.values() for axis in axes if axis and axis.name in SIDES]
    lowest = [entry.ranges[side].minimum for entry in sizes.classes for side in SIDES if side in entry.ranges]
    if not lowest:
        return list(sizes.classes)
    if max_side < max(lowest) or any(max_side % step for step in steps):
        multiple = f" and a multiple of {max(steps)}" if max(steps) > 1 else ""
        raise ExportError(f"{model}: the largest side must be at least {max(lowest)}{multiple}; got {max_side}.")
    classes: dict[tuple[tuple[str, int, int], ...], SizeClass] = {}
    for entry in sizes.classes:
        ranges = {name: r.capped(max_side) if name in SIDES else r for name, r in entry.ranges.items()}
        box = tuple((name, r.minimum, r.maximum) for name, r in sorted(ranges.items()))
        classes.setdefault(box, replace(entry, ranges=ranges))
    return list(classes.values())


def _profile(
    model: str, axes: Mapping[str, tuple[Axis | None, ...]], graph: Graph, entry: SizeClass, rows: int
) -> Profile:
    batch = Range(minimum=1, optimum=min(entry.batch, rows), maximum=rows)
    shapes = {}
    for name, dims in graph.inputs.items():
        behind = enumerate(zip(dims[1:], axes[name], strict=True), start=1)
        ranges = [batch, *(_side(f"{model}: dimension {k} of {name}", d, a, entry.ranges) for k, (d, a) in behind)]
        shapes[name] = Shapes(
            minimum=tuple(r.minimum for r in ranges),
            optimum=tuple(r.optimum for r in ranges),
            maximum=tuple(r.maximum for r in ranges),
        )
    return Profile(name=entry.name, shapes=shapes)


def _side(what: str, dim: int | None, axis: Axis | None, ranges: Mapping[str, Range]) -> Range:
    """The sizes of one dimension, in elements.

    :raises ExportError: it is dynamic and its maximum is unknown, or a limit is not a whole number of elements.
    """
    if dim is not None:
        return Range(minimum=dim, optimum=dim, maximum=dim)
    if axis is None or axis.name not in ranges:
        raise ExportError(f"{what} is dynamic, and profiles.py gives no range for it.")
    found = ranges[axis.name]
    limits = (found.minimum, found.optimum, found.maximum)
    if any(limit % axis.step for limit in limits):
        raise ExportError(f"{what} counts steps of {axis.step}, and its range is {limits}.")
    low, usual, high = (limit // axis.step for limit in limits)
    return Range(minimum=low, optimum=usual, maximum=high)


def holds(plan: EnginePlan, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a profile covers a call with inputs of these shapes."""
    return any(
        all(
            len(shape) == len(box.minimum)
            and all(low <= n <= high for low, n, high in zip(box.minimum, shape, box.maximum, strict=True))
            for shape, box in ((shape, profile.shapes[name]) for name, shape in shapes.items())
        )
        for profile in plan.profiles
    )


def describe(plan: EnginePlan, file_name: str) -> str:
    """Describe the plan in several lines of text."""
    types = (
        f"{plan.precision}, the types of model.onnx (strongly typed)"
        if plan.strongly_typed
        else f"{plan.precision} where TensorRT likes, model.onnx is {plan.graph_precision} (flag {plan.flags[0]})"
    )
    lines = [
        f"{plan.model}: {file_name}",
        f"  types      {types}",
        f"  limits     batches of up to {plan.max_batch}, {plan.workspace / GIB:g} GiB of workspace",
    ]
    for number, profile in enumerate(plan.profiles):
        lines.append(f"  profile {number}  {profile.name:<32}{'min':<18}{'opt':<18}max")
        for name, shapes in profile.shapes.items():
            low, usual, high = ("x".join(map(str, s)) for s in (shapes.minimum, shapes.optimum, shapes.maximum))
            lines.append(f"    {name:<38}{low:<18}{usual:<18}{high}")
    return "\n".join(lines)
