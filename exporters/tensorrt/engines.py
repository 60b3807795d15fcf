"""engine.json: the engines beside a model.onnx, each with the model, the GPU and the TensorRT that it was built with.

An engine is used only if all of these are unchanged: the model, the GPU's architecture, TensorRT's version, the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darkroom.files import write_atomically
from darkroom.serving.networks import ModelSpec
from exporters.errors import ExportError
from exporters.manifest import FileState
from exporters.onnx_export import DATA_NAME, MODEL_NAME
from exporters.tensorrt.plan import EnginePlan
from exporters.tensorrt.target import Gpu, Target, visible_gpus

FILE_NAME = "engine.json"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One entry of engine.json.

    :param file: the plan file's name.
    :param state: the state of that file.
    :param onnx: the states of the model's files.
    :param facts: of its `EnginePlan`.
    :param seconds: that the build took.
    """

    file: str
    state: FileState
    onnx: Mapping[str, FileState]
    facts: Mapping[str, Any]
    target: Target
    seconds: float

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Engine:
        """Convert the result of `asdict` back.

        :raises KeyError, TypeError, AttributeError: `raw` is not of this form.
        """
        return cls(
            file=raw["file"],
            state=FileState(**raw["state"]),
            onnx={name: FileState(**state) for name, state in raw["onnx"].items()},
            facts=raw["facts"],
            target=Target(gpu=Gpu(**raw["target"]["gpu"]), tensorrt=raw["target"]["tensorrt"]),
            seconds=raw["seconds"],
        )

    @property
    def max_batch(self) -> int:
        """The maximum batch size."""
        return int(self.facts["max_batch"])

    @property
    def profiles(self) -> int:
        """The number of optimisation profiles."""
        return len(self.facts["profiles"])

    def of_this_model(self, folder: Path) -> bool:
        """Whether it was built from the present model in that folder."""
        return all(state.still(folder / name) for name, state in self.onnx.items())

    def intact(self, folder: Path) -> bool:
        """Whether neither its file nor the model has changed since it was built."""
        return self.of_this_model(folder) and self.state.still(folder / self.file)


def read(folder: Path) -> list[Engine]:
    """Read all entries of a version folder's engine.json, newest last; none if it cannot be read."""
    try:
        return [Engine.from_json(raw) for raw in json.loads((folder / FILE_NAME).read_text())["engines"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def up_to_date(folder: Path, plan: EnginePlan, target: Target) -> Engine | None:
    """Return the engine of this plan if it was built from the present model for this target; else None."""
    name = target.engine_name(plan.precision)
    for engine in read(folder):
        same = engine.file == name and engine.facts == plan.facts() and _same_place(engine.target, target)
        if same and engine.intact(folder):
            return engine
    return None


def _same_place(one: Target, other: Target) -> bool:
    return (one.gpu.capability, one.tensorrt) == (other.gpu.capability, other.tensorrt)


def install(folder: Path, plan: EnginePlan, target: Target, data: bytes, seconds: float) -> Engine:
    """Write an engine beside its model, with its entry; engines of earlier models are removed.

    :raises OSError: the folder cannot be written.
    """
    file = target.engine_name(plan.precision)
    write_atomically(folder / file, data)
    engine = Engine(
        file=file,
        state=FileState.of(folder / file),
        onnx={name: FileState.of(folder / name) for name in (MODEL_NAME, DATA_NAME) if (folder / name).is_file()},
        facts=plan.facts(),
        target=target,
        seconds=round(seconds, 1),
    )
    others = [other for other in read(folder) if other.file != file]
    kept = [other for other in others if other.of_this_model(folder)]
    content = {"engines": [asdict(entry) for entry in (*kept, engine)]}
    write_atomically(folder / FILE_NAME, json.dumps(content, indent=1).encode() + b"\n")
    for other in others:
        if other not in kept:
            (folder / other.file).unlink(missing_ok=True)
    return engine


def usable(folder: Path) -> dict[str, Engine]:
    """Return the engines that may be served, by compute capability; the newest of several for one capability."""
    return {engine.target.gpu.capability: engine for engine in read(folder) if engine.intact(folder)}


@dataclass(frozen=True, kw_only=True)
class Served:
    """The engines in the config of a network.

    :param files: their names by compute capability: one for all GPUs, or one for each kind.
    """

    files: Mapping[str, str]
    max_batch: int
    profiles: int


def to_serve(repository: Path, specs: Iterable[ModelSpec], gpus: Sequence[int]) -> dict[str, Served]:
    """Return the engines of all networks in `specs` for these GPUs, by the model's name.

    If the GPUs are in this machine, there must be an engine for each kind of them; otherwise all engines are returned.

    :raises ExportError: networks have no engine that may be served; names all of them.
    """
    visible = visible_gpus()
    known = visible and max(gpus) < len(visible)
    kinds = {visible[number].capability for number in gpus} if known else None
    served, without = {}, {}
    for spec in specs:
        if spec.backend == "python":
            continue
        folder = repository / spec.name / "1"
        found = usable(folder)
        chosen = {kind: found[kind] for kind in sorted(kinds & set(found) if kinds else found)}
        if not chosen or (kinds and set(chosen) != kinds):
            without[spec.name] = "built of another model.onnx" if read(folder) and not found else "not built"
            continue
        served[spec.name] = Served(
            files={kind: engine.file for kind, engine in chosen.items()},
            max_batch=min(engine.max_batch for engine in chosen.values()),
            profiles=min(engine.profiles for engine in chosen.values()),
        )
    if without:
        listed = ", ".join(f"{name} ({reason})" for name, reason in without.items())
        kind = f" for compute capability {', '.join(sorted(kinds))}" if kinds else ""
        raise ExportError(
            f"There is no TensorRT engine{kind} in {repository} of {listed}; run first: python -m exporters tensorrt, "
            "or name the networks that shall have one with --model."
        )
    return served
