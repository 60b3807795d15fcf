"""The networks of a checkpoint in the diffusers folder layout: which files each has, and its weights in fp32.

What needs no weights (classes, missing files) is checked from the JSON files before torch is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from exporters import onnx_export
from exporters.checkpoints.files import plain_view, read_json
from exporters.errors import ExportError
from exporters.files import sha256
from exporters.manifest import SourceCheckpoint

INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
DIFFUSERS_STEMS = ("diffusion_pytorch_model", "diffusion_pytorch_model")
TRANSFORMERS_STEMS = ("model", "pytorch_model")
"""What the files are called that hold the weights: those of .safetensors and those of .bin."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """One network of a checkpoint.

    :param part: its folder inside the checkpoint; "" for a ControlNet, which is a checkpoint of its own.
    :param files: config.json and the weights, by their path inside the checkpoint.
    :param variant: "fp16" if the names of the weights' files contain it.
    """

    root: Path
    part: str
    config: dict[str, Any]
    files: tuple[str, ...]
    variant: str | None

    @property
    def weights(self) -> tuple[str, ...]:
        """The files that are not config.json."""
        return self.files[1:]

    @property
    def safetensors(self) -> bool:
        """Whether the weights are safetensors; else they are pickles, read with torch's weights_only."""
        return any(name.endswith(".safetensors") for name in self.files)


def class_of(index: Mapping[str, Any], part: str) -> str | None:
    """The class that a model_index.json names for a part; None if it does not have the part."""
    entry = index.get(part)
    return str(entry[1]) if isinstance(entry, list) and len(entry) == 2 else None


def read_component(root: Path, part: str, kind: str, stems: tuple[str, str]) -> Component:
    """One network of a checkpoint: its config.json and the names of its files.

    :param part: its folder; "" where the checkpoint is this network alone.
    :param kind: the class that config.json must name.
    :param stems: TRANSFORMERS_STEMS or DIFFUSERS_STEMS.
    :raises ExportError: it is missing, incomplete or of another class.
    """
    prefix = f"{part}/" if part else ""
    config = read_json(root, f"{prefix}config.json")
    found = config.get("_class_name") or (config.get("architectures") or [None])[0]
    if found != kind:
        raise ExportError(f"{root.name}/{prefix}config.json describes {found or 'no class'}, expected {kind}.")
    for suffix, stem in ((".safetensors", stems[0]), (".bin", stems[1])):
        for variant in (None, "fp16"):
            files = _weight_files(root, prefix, stem, f".{variant}" if variant else "", suffix)
            if files:
                files = (f"{prefix}config.json", *files)
                return Component(root=root, part=part, config=config, files=files, variant=variant)
    raise ExportError(f"{root.name} has no weights {prefix}{stems[0]}.safetensors (nor .bin).")


def _weight_files(root: Path, prefix: str, stem: str, variant: str, suffix: str) -> tuple[str, ...]:
    """The file of the weights, or the index of several files with these; empty if there is neither.

    :raises ExportError: a file of the list is missing.
    """
    single = f"{prefix}{stem}{variant}{suffix}"
    if (root / single).is_file():
        return (single,)
    indices = [f"{prefix}{name}" for name in _index_names(stem, variant, suffix)]
    index = next((name for name in indices if (root / name).is_file()), None)
    if index is None:
        return ()
    shards = sorted({f"{prefix}{name}" for name in read_json(root, index).get("weight_map", {}).values()})
    for shard in shards:
        if not (root / shard).is_file():
            raise ExportError(f"{root.name} has no {shard}, which {index} lists.")
    return (index, *shards)


def _index_names(stem: str, variant: str, suffix: str) -> tuple[str, ...]:
    """The possible names of the index of several files; the first one is that of diffusers and transformers."""
    return tuple(
        dict.fromkeys(
            (
                f"{stem}{suffix}.index{variant}.json",
                f"{stem}{suffix}{variant}.index.json",
                f"{stem}{variant}{suffix}.index.json",
            )
        )
    )


def _usual_names(component: Component) -> dict[str, str]:
    """The name that the libraries expect for the index of a component's files, by its present name."""
    index = Path(component.weights[0]).name
    if not index.endswith(".json"):
        return {}
    suffix = ".safetensors" if component.safetensors else ".bin"
    variant = f".{component.variant}" if component.variant else ""
    for stem in dict.fromkeys((*DIFFUSERS_STEMS, *TRANSFORMERS_STEMS)):
        names = _index_names(stem, variant, suffix)
        if index in names:
            return {index: names[0]}
    return {}


def digest(*sources: SourceCheckpoint) -> str:
    """The hash of all files' hashes."""
    return sha256("".join(state.sha256 for entry in sources for _, state in sorted(entry.files.items())).encode())


def weights_digest(component: Component, source: SourceCheckpoint) -> str:
    """The hash of the weights of one network, which for one file is that of the file.

    :param source: has the network's files among others.
    """
    hashes = [source.files[name].sha256 for name in component.weights]
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode())


def expect(component: Component, name: str, value: object, *, default: object = None, why: str = "") -> None:
    """Check one entry of a component's config.json.

    :param default: the value of a missing entry.
    :param why: a reason for the error message, after the expected value.
    :raises ExportError: it has another value.
    """
    require(component, name, value, component.config.get(name, default), why=why)


def require(component: Component, name: str, value: object, found: object, *, why: str = "") -> None:
    """Check a property of a component that its config.json does not name itself.

    :raises ExportError: `found` is not `value`.
    """
    if found != value:
        where = f"{component.root.name}/{component.part}".rstrip("/")
        raise ExportError(f"{where}: {name} is {found}, expected {value}{f', {why}' if why else ''}.")


def load(kind: str, component: Component, *, diffusers: bool) -> Any:
    """A network in fp32.

    :param kind: its class.
    :param diffusers: whether the class is one of diffusers; else it is one of transformers.
    :raises ExportError: its weights are damaged or of another network.
    """
    with onnx_export.quiet():
        import diffusers as in_diffusers
        import transformers
    if not diffusers:
        return load_component(getattr(transformers, kind), component)
    # Without accelerate, which only training needs, diffusers has no other way, and logs this on every call.
    return load_component(getattr(in_diffusers, kind), component, low_cpu_mem_usage=False)


def load_component(kind: Any, component: Component, **options: Any) -> Any:
    """Call from_pretrained, with every failure as one sentence; weights in fp16 are converted to fp32.

    :raises ExportError: its weights are damaged or of another network.
    """
    import torch
    from safetensors import SafetensorError

    what = f"{component.root.name}/{component.weights[0]}"
    try:
        with onnx_export.quiet(), plain_view(component.root / component.part, _usual_names(component)) as folder:
            model, loaded = kind.from_pretrained(
                folder,
                variant=component.variant,
                use_safetensors=component.safetensors,
                torch_dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except (OSError, SafetensorError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{what} cannot be read as the weights of {kind.__name__}: {reason[:200]}") from None
    for problem in _mismatches(loaded):
        raise ExportError(f"{what} holds the weights of another network: {problem}.")
    return model.float().eval().requires_grad_(False)


def _mismatches(loaded: dict[str, Any]) -> Iterator[str]:
    if loaded.get("missing_keys"):
        yield f"{len(loaded['missing_keys'])} are missing, {min(loaded['missing_keys'])} is the first"
    if loaded.get("mismatched_keys"):
        yield f"{len(loaded['mismatched_keys'])} have another shape"
    # Old files contain the position numbers of CLIP, which are not weights.
    unexpected = [key for key in loaded.get("unexpected_keys", ()) if not key.endswith("position_ids")]
    if unexpected:
        yield f"{len(unexpected)} are unknown, {min(unexpected)} is the first"
