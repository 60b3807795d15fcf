"""The transformer's weights beside its model.py: the checkpoint's own safetensors, which are read as they are."""

from __future__ import annotations

from exporters import manifest
from exporters.checkpoints.components import Component
from exporters.export import ModelExport
from exporters.hidream import weights
from exporters.hidream.export import CheckpointSources
from exporters.manifest import Manifest
from exporters.tasks import Stage
from exporters.torch_weights import STAGES as STAGES
from exporters.torch_weights import Shapes, export_weights, require_shapes


def current_hash() -> str:
    """The hash of everything that shapes the files."""
    return manifest.code_hash(["exporters.hidream.transformer", "exporters.torch_weights"])


def export(wanted: ModelExport, sources: CheckpointSources, stage: Stage) -> Manifest:
    """Check that the weights are those of config.json, and put both in place.

    :raises ExportError: they are not, or are no safetensors.
    """
    component = sources.read().parts[weights.TRANSFORMER]
    return export_weights(
        wanted,
        component,
        lambda found: require_shapes(component, _expected(component), found),
        exporter=current_hash(),
        stage=stage,
    )


def _expected(component: Component) -> Shapes:
    """The tensors of the model that config.json describes."""
    import torch
    from diffusers import HiDreamImageTransformer2DModel

    with torch.device("meta"):
        model = HiDreamImageTransformer2DModel.from_config(component.config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
