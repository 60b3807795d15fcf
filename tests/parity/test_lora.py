"""LoRA files against diffusers and PEFT: the same file changes the same weights by the same amounts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from darkroom.diffusion.lora.names import _blocks, _sgm_names
from darkroom.diffusion.lora.pack import LoraPack, Target, Targets
from darkroom.diffusion.lora.read import read
from tests.lora_files import LAYOUTS, Change, change, pack_file
from tests.sd15_checkpoints import make_unet
from tests.tiny_sd15 import make_pipeline

KINDS = (nn.Linear, nn.Conv2d)


def targets_of(network: nn.Module) -> list[Target]:
    """Every linear module and convolution of a network."""
    found = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            found.append(Target(name=name, in_features=module.in_features, out_features=module.out_features))
        elif isinstance(module, nn.Conv2d):
            sizes = {"in_features": module.in_channels, "out_features": module.out_channels}
            found.append(Target(name=name, kind="conv", kernel=module.kernel_size[0], **sizes))
    return found


def base_of(pipeline: DiffusionPipeline) -> Targets:
    names = [name for name in ("unet", "text_encoder", "text_encoder_2") if getattr(pipeline, name, None) is not None]
    return Targets(base="tiny", components={name: targets_of(getattr(pipeline, name)) for name in names})


@pytest.fixture
def small(tmp_path: Path) -> DiffusionPipeline:
    return make_pipeline(tmp_path / "checkpoint")


@pytest.fixture
def large() -> DiffusionPipeline:
    """Two text encoders, and attention in the second level only."""
    torch.manual_seed(0)
    text = {"vocab_size": 50, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    unet = make_unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=2,
        cross_attention_dim=40,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=72,
    )
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=CLIPTextModel(CLIPTextConfig(hidden_size=16, projection_dim=16, **text)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=24, projection_dim=24, **text)),
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=None,
    )


def weights(pipeline: DiffusionPipeline, base: Targets) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    return {
        component: {
            t.name: getattr(pipeline, component).get_submodule(t.name).weight.detach().numpy().copy() for t in modules
        }
        for component, modules in base.components.items()
    }


def check(pipeline: DiffusionPipeline, file: bytes, path: Path, scale: float = 1.0) -> LoraPack:
    """Load the file with diffusers, and compare the change of every weight with the pack's."""
    base = base_of(pipeline)
    before, pack = weights(pipeline, base), read(file, base)
    assert pack.applied == pack.total
    path.write_bytes(file)
    pipeline.load_lora_weights(str(path))
    pipeline.fuse_lora(components=list(base.components), lora_scale=scale)
    pipeline.unload_lora_weights()
    changed = 0
    for component, modules in weights(pipeline, base).items():
        for name, weight in modules.items():
            layer = pack.layers.get(component, {}).get(name)
            delta = weight - before[component][name]
            changed += bool(np.abs(delta).max() > 1e-4)
            expected = np.zeros_like(delta) if layer is None else (scale * layer.delta()).reshape(delta.shape)
            np.testing.assert_allclose(delta, expected, atol=2e-5, err_msg=f"{component}.{name}")
    assert changed == sum(len(modules) for modules in pack.layers.values())
    return pack


def in_layout(base: Targets, layout: str, *, alpha: bool, only: str = "") -> bytes:
    """Changes of all attention modules of a base model, and of some others, with different ranks."""
    tensors: dict[str, Any] = {}
    for component, modules in base.components.items():
        chosen = [t for t in modules if ("attn" in t.name or ".ff." in t.name or ".proj_" in t.name) and only in t.name]
        for index, target in enumerate(chosen):
            one = change(target, index, rank=1 + index % 3, alpha=1.5 if alpha else None)
            smaller = Change(target, one.down / 4, one.up / 4, one.alpha)
            tensors |= LAYOUTS[layout](component, filed(component, smaller))
    return pack_file(tensors)


def filed(component: str, change: Change) -> Change:
    """As files call a text encoder's module, whatever transformers calls it today."""
    target = change.target
    if component == "unet" or target.name.startswith(("text_model.", "text_projection")):
        return change
    name = f"text_model.{target.name}"
    return Change(
        Target(name=name, in_features=target.in_features, out_features=target.out_features),
        change.down,
        change.up,
        change.alpha,
    )


@pytest.mark.parametrize(
    ("layout", "alpha"),
    [("kohya", False), ("kohya", True), ("diffusers", False), ("old diffusers", False), ("peft", False)],
)  # diffusers reads alphas of the others from metadata alone
def test_lora_changes_the_weights_as_diffusers_does(
    small: DiffusionPipeline, tmp_path: Path, layout: str, alpha: bool
) -> None:
    file = in_layout(base_of(small), layout, alpha=alpha, only="" if layout != "old diffusers" else ".attn")
    check(small, file, tmp_path / "lora.safetensors", scale=0.7)


@pytest.mark.parametrize("layout", ["kohya", "sgm", "peft"])
def test_lora_with_two_text_encoders_as_diffusers_does(large: DiffusionPipeline, tmp_path: Path, layout: str) -> None:
    pack = check(large, in_layout(base_of(large), layout, alpha=layout != "peft"), tmp_path / "lora.safetensors")
    assert set(pack.layers) == {"unet", "text_encoder", "text_encoder_2"}


@pytest.mark.parametrize("root", [False, True])
def test_lora_that_diffusers_saved(small: DiffusionPipeline, tmp_path: Path, root: bool) -> None:
    """Its alphas stand in the metadata, those of rsLoRA as well."""
    torch.manual_seed(3)
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["to_q", "to_out.0", "proj_in", "conv1"], use_rslora=root,
        init_lora_weights=False, rank_pattern={"proj_in": 2}, alpha_pattern={"proj_in": 3},
    )  # fmt: skip
    small.unet.add_adapter(config, "default")
    base = base_of(make_pipeline(tmp_path / "other"))
    StableDiffusionPipeline.save_lora_weights(
        str(tmp_path),
        unet_lora_layers=get_peft_model_state_dict(small.unet, adapter_name="default"),
        **_collate_lora_metadata({"unet": small.unet}),
    )
    file = (tmp_path / "pytorch_lora_weights.safetensors").read_bytes()
    pack = read(file, base)
    assert pack.applied == pack.total
    layers = {name: module for name, module in small.unet.named_modules() if isinstance(module, LoraLayer)}
    assert set(layers) == set(pack.layers["unet"])
    for name, module in layers.items():
        delta = module.get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(pack.layers["unet"][name].delta().reshape(delta.shape), delta, atol=1e-6)


@pytest.mark.parametrize("levels", [3, 4])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_lora_original_names_are_those_of_the_single_file(levels: int, blocks: int) -> None:
    """diffusers finds every module by the names that the reader makes, when it converts a checkpoint."""
    plain, deep = ("DownBlock2D", "CrossAttnDownBlock2D") if levels == 3 else ("CrossAttnDownBlock2D", "DownBlock2D")
    down = (plain, *[deep if levels == 3 else plain] * (levels - 2), deep)
    up = tuple(kind.replace("Down", "Up") for kind in reversed(down))
    with torch.device("meta"):
        unet = make_unet(
            down_block_types=down, up_block_types=up, block_out_channels=(8,) * levels, layers_per_block=blocks,
            addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=72,
        )  # fmt: skip
    modules = {target.name: target for target in targets_of(unet)}
    count = _blocks(modules)
    assert count == blocks
    original: dict[str, str] = {}
    for name in modules:
        names = list(_sgm_names(name, count))
        assert names, name
        if "upsamplers" in name:  # it follows the attention, where the level has one
            level = name.partition(".upsamplers")[0]
            names = [names[any(other.startswith(f"{level}.attentions") for other in modules)]]
        original |= {f"model.diffusion_model.{names[0]}.{part}": f"{name}.{part}" for part in ("weight", "bias")}
    found = convert_ldm_unet_checkpoint(original, dict(unet.config))
    weights = {name: value for name, value in found.items() if name.endswith(".weight")}
    assert weights == {f"{name}.weight": f"{name}.weight" for name in modules}
