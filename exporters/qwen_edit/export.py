"""How the family's networks are read from a checkpoint and exported."""

from __future__ import annotations

from darkroom.pipelines.qwen_edit import networks
from darkroom.serving.networks import split_label
from exporters import manifest, plan
from exporters.checkpoints.components import Component
from exporters.errors import ExportError
from exporters.export import ModelExport, Recipe, model_task, network_task
from exporters.manifest import Manifest
from exporters.merged_lora import LoraFile
from exporters.qwen_edit import plans, weights
from exporters.tasks import ExportTask, Stage
from exporters.torch_weights import STAGES, Shapes, export_weights, read_shapes, require_shapes

_GRAPH_MODULES = (
    *plan.SHARED,
    "exporters.latent_plans",
    "exporters.qwen_edit.graphs",
    "exporters.qwen_edit.plans",
)
_WEIGHT_MODULES = ("exporters.qwen_edit.export", "exporters.torch_weights", "exporters.merged_lora")
_EMBEDDING = "embed_tokens.weight"


def graph_hash() -> str:
    """The hash of everything that shapes the graphs."""
    return manifest.code_hash(_GRAPH_MODULES)


def weights_hash() -> str:
    """The hash of everything that shapes the files of the torch networks."""
    return manifest.code_hash(_WEIGHT_MODULES)


def vae_task(wanted: ModelExport) -> ExportTask:
    """The export of the VAE's encoder or decoder."""
    return network_task(wanted, exporter=graph_hash, recipe=lambda: recipe(wanted))


def recipe(wanted: ModelExport) -> Recipe:
    """How to make an ONNX network of what the checkpoint's files say.

    :raises ExportError: the checkpoint is missing, incomplete or of another kind.
    """
    component = weights.read_checkpoint(wanted.checkpoint.root).parts[weights.VAE]
    return Recipe(
        plan=plans.plan_of(wanted.spec),
        exporter=graph_hash(),
        components={weights.VAE: component},
        sources={"checkpoint": wanted.checkpoint.source(component.files)},
        load=weights.load_vae,
    )


def torch_task(wanted: ModelExport, lora: LoraFile | None = None) -> ExportTask:
    """The export of the text encoder or the transformer: their weights as they are.

    :param lora: is added to the transformer's weights when they are loaded.
    """
    encoder = split_label(wanted.spec.name)[0] == networks.TEXT_ENCODER.name
    part, check = (weights.TEXT_ENCODER, check_text_encoder) if encoder else (weights.TRANSFORMER, check_transformer)

    def export(stage: Stage) -> Manifest:
        component = weights.read_checkpoint(wanted.checkpoint.root).parts[part]
        return export_weights(
            wanted,
            component,
            lambda found: check(component, found),
            exporter=weights_hash(),
            stage=stage,
            lora=lora,
            beside=_controlnet(wanted, component),
        )

    return model_task(
        wanted,
        stages=STAGES,
        exporter=weights_hash,
        export=export,
        difference=lambda result: f"the weights are the checkpoint's own{f', with {lora.title}' if lora else ''}",
    )


def _controlnet(wanted: ModelExport, transformer: Component) -> dict[str, Component]:
    """The ControlNet that goes beside the transformer, by its role; none where the export names none.

    :raises ExportError: it is for another transformer, or its weights are no safetensors or another network's.
    """
    origin = wanted.beside.get(weights.CONTROLNET)
    if origin is None:
        return {}
    found = weights.read_controlnet(origin.root, transformer)
    if not found.safetensors:
        raise ExportError(f"{found.root.name}: the weights of a ControlNet have to be safetensors.")
    _require_shapes_of(weights.CONTROLNET_KIND, found, read_shapes(found))
    return {weights.CONTROLNET: found}


def check_transformer(component: Component, found: Shapes) -> None:
    """:raises ExportError: the weights are not those of the model that config.json describes."""
    _require_shapes_of(weights.KINDS[weights.TRANSFORMER], component, found)


def _require_shapes_of(kind: str, component: Component, found: Shapes) -> None:
    """:raises ExportError: the shapes are not those of a class of diffusers with this config.json."""
    import diffusers
    import torch

    with torch.device("meta"):
        model = getattr(diffusers, kind).from_config(component.config)
    require_shapes(component, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, found)


def check_text_encoder(component: Component, found: Shapes) -> None:
    """Check the embedding of tokens. The other names depend on the version of transformers that wrote the file; the
    network compares them when it loads.

    :raises ExportError: the embedding has another shape, or there is none.
    """
    config = component.config.get("text_config", component.config)
    wanted = config.get("vocab_size"), config.get("hidden_size")
    shapes = [shape for name, shape in found.items() if name.endswith(_EMBEDDING)]
    if shapes != [wanted]:
        raise ExportError(
            f"{component.root.name}/{component.part} holds the weights of another network: {_EMBEDDING} has the shape "
            f"{shapes[0] if shapes else None}, expected {wanted}."
        )
