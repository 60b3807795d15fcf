"""The transformer and its ControlNet on two ranks: how they are cut, and edits against those of one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from diffusers import QwenImageControlNetModel, QwenImageTransformer2DModel
from safetensors.torch import load_file, save_file

from darkroom.diffusion.merged_lora import LORA_NAME
from darkroom.errors import InvalidInput
from darkroom.parallel.cuts import cut_of
from darkroom.parallel.job import Timeouts
from darkroom.parallel.layout import Place
from darkroom.pipelines.qwen_edit.distributed.inputs import check_inputs
from darkroom.pipelines.qwen_edit.distributed.layouts import layout_for
from darkroom.pipelines.qwen_edit.distributed.plan import CUTS
from darkroom.pipelines.qwen_edit.distributed.shard import check_divisible, load_shard
from darkroom.pipelines.qwen_edit.distributed.transformer import DividedTransformer
from darkroom.pipelines.qwen_edit.pipeline import Components
from darkroom.pipelines.qwen_edit.transformer_model import QwenEditTransformerModel
from darkroom.png import encode_png
from darkroom.serving.networks import Array, Tensors
from tests.families.qwen_edit import tiny
from tests.families.qwen_edit.edits import FIRST, SECOND, TOLERANCE, difference, ours, picture
from tests.parallel_models import own_temporary_folder, private_folders, ranks_below, wait_gone

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"
RELATIVE = 1e-4
"""Of the largest value of a prediction: the sums are the same but for their order."""


@dataclass(frozen=True)
class Checkpoint:
    """A tiny checkpoint with a ControlNet, as it is served.

    :param folder: of the transformer.
    """

    folder: Path
    components: Components


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("divided")
    pipeline = tiny.write_checkpoint(folder / "checkpoint", plus=True, zero_cond_t=True)
    tiny.write_controlnet(folder / "steering")
    components = tiny.make_components(
        pipeline, folder / "checkpoint", folder / "models", controlnet=folder / "steering"
    )
    return Checkpoint(folder / "models" / "qwen_edit_transformer" / "1", components)


@pytest.fixture(scope="module")
def divided(checkpoint: Checkpoint) -> Iterator[DividedTransformer]:
    started: list[DividedTransformer] = []

    def start() -> None:
        timeouts = Timeouts(start=300, call=120, beat=60)
        place: dict[str, Any] = {"device_type": "cpu", "devices": (0, 1), "dtype": torch.float32}
        started.append(DividedTransformer(checkpoint.folder, timeouts=timeouts, **place))

    with own_temporary_folder():
        thread = threading.Thread(target=start)  # which ends: the ranks are not to go with it
        thread.start()
        thread.join()
        below = ranks_below()
        yield started[0]
        started[0].close()
        assert not wait_gone(below)
        assert not private_folders()


def on(network: Any, components: Components) -> Components:
    """The same components with another transformer."""

    async def predicted(inputs: Tensors) -> dict[str, Array]:
        return {"noise_pred": network(tiny.as_torch(inputs)).numpy()}

    return replace(components, transformer=predicted)


@pytest.mark.parametrize(
    ("kind", "part"), [(QwenImageTransformer2DModel, "."), (QwenImageControlNetModel, "controlnet")]
)
def test_qwen_edit_parts_of_ranks_make_the_whole(checkpoint: Checkpoint, kind: Any, part: str) -> None:
    folder = checkpoint.folder / part
    whole = load_file(folder / WEIGHTS)
    shards = []
    for rank in (0, 1):
        place = Place(layout=layout_for(2), rank=rank)
        model = load_shard(kind, folder, place=place, group=None, device=CPU, dtype=torch.float32)
        shards.append(dict(model.named_parameters()))
    for name, tensor in whole.items():
        cut = cut_of(CUTS, name)
        parts = [shard[name] for shard in shards]
        joined = parts[0] if cut is None else torch.cat(parts, cut.dim)
        assert torch.equal(joined, tensor), name
        assert cut is not None or torch.equal(parts[1], tensor), name
    assert set(shards[0]) == set(shards[1]) == set(whole)
    assert {cut_of(CUTS, name) for name in whole} == {*CUTS, None}
    if part == ".":
        held = sum(tensor.numel() for tensor in shards[0].values())
        assert held < 0.6 * sum(tensor.numel() for tensor in whole.values())


def test_qwen_edit_on_two_ranks_is_that_of_one_process(checkpoint: Checkpoint, divided: DividedTransformer) -> None:
    images = [picture(FIRST), picture(SECOND, 1)]
    for fields in (
        {"negative_prompt": "a dog"},
        {"negative_prompt": " ", "num_images": 2, "control_image": encode_png(picture(FIRST, 9))},
    ):
        alone = ours(checkpoint.components, images, seed=7, steps=3, **fields)
        together = ours(on(divided, checkpoint.components), images, seed=7, steps=3, **fields)
        assert difference(alone, together) <= TOLERANCE
        assert alone.std() > 5
    status = divided.status()
    assert (status["mode"], status["layout"], status["healthy"]) == ("distributed", {"tp": 2}, 2)
    assert len({rank["pid"] for rank in status["ranks"]}) == 2


def call(rows: int = 2, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(rows, 256, 64, generator=generator),
        "grids": torch.tensor([[[6, 8], [4, 4], *[[0, 0]] * 4]] * rows, dtype=torch.int32),
        "timestep": torch.full((rows, 1), 500.0),
        "encoder_hidden_states": torch.randn(rows, 256, tiny.WIDTH, generator=generator),
        "text_tokens": torch.full((rows, 1), 20, dtype=torch.int32),
    }
    return {**inputs, **changes}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden_states": torch.zeros(2, 256, 60)}, r"hidden_states must be float32 of shape \(2, -1, 64\)"),
        ({"timestep": torch.zeros(3, 1)}, r"timestep must be float32 of shape \(2, 1\)"),
        ({"encoder_hidden_states": torch.zeros(2, 256, 31)}, r"encoder_hidden_states .* \(2, -1, 32\)"),
        ({"text_tokens": torch.zeros(2, 1)}, "text_tokens must be int32"),
        ({"text_tokens": torch.full((2, 1), 300, dtype=torch.int32)}, "encoder_hidden_states has 256 tokens"),
        ({"grids": torch.zeros(2, 6, 2, dtype=torch.int32)}, "grids must begin|has 256 tokens|index"),
        ({"other": torch.zeros(2, 1)}, "inputs must be hidden_states, .*; got .*other"),
        ({"control_tokens": torch.zeros(2, 256, 64)}, "inputs must be .*control_scale"),
    ],
)
def test_qwen_edit_bad_inputs_cost_no_rank(
    divided: DividedTransformer, changes: dict[str, torch.Tensor], text: str
) -> None:
    with pytest.raises(InvalidInput, match=text):
        divided(call(**changes))
    assert divided.status()["mode"] == "distributed"


def test_qwen_edit_control_without_a_controlnet_reaches_no_rank() -> None:
    with pytest.raises(InvalidInput, match="control_tokens needs a ControlNet"):
        check_inputs(tiny.WIDTH, False, call(control_tokens=torch.zeros(2, 256, 64)))
    far = torch.full((2, 1), 4095, dtype=torch.int32)
    with pytest.raises(InvalidInput, match="at most 4096 positions together; got 4099"):
        check_inputs(tiny.WIDTH, False, call(text_tokens=far, encoder_hidden_states=torch.zeros(2, 4096, tiny.WIDTH)))


def test_qwen_edit_goes_on_with_one_device_when_a_rank_is_killed(checkpoint: Checkpoint) -> None:
    images = [picture(FIRST)]
    expected = ours(checkpoint.components, images, seed=7, steps=2)
    place: dict[str, Any] = {"device_type": "cpu", "devices": (0, 1), "dtype": torch.float32}
    others = ranks_below()  # of the fixture
    with own_temporary_folder(), DividedTransformer(checkpoint.folder, **place) as network:
        below = [process for process in ranks_below() if process not in others]
        assert len(below) == 3
        assert network.status()["mode"] == "distributed", network.status()["reason"]
        psutil.Process(network.status()["ranks"][1]["pid"]).kill()
        made = ours(on(network, checkpoint.components), images, seed=7, steps=2)
        assert network.status()["mode"] == "single"
    assert difference(made, expected) <= TOLERANCE
    assert not wait_gone(below)


def test_qwen_edit_what_cannot_be_divided_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    check_divisible(checkpoint.folder, layout_for(4))
    with pytest.raises(InvalidInput, match="4 attention heads cannot be divided among 8"):
        check_divisible(checkpoint.folder, layout_for(8))
    with pytest.raises(InvalidInput, match="device count must be one of 1, 2, 4, 8; got 3"):
        layout_for(3)
    for name in ("config.json", WEIGHTS):
        (tmp_path / name).write_bytes((checkpoint.folder / name).read_bytes())
    save_file({"x.up": torch.zeros(1, 1)}, tmp_path / LORA_NAME)
    with pytest.raises(InvalidInput, match="with a LoRA in it is for one device"):
        check_divisible(tmp_path, layout_for(2))


@pytest.mark.parametrize(
    ("settings", "instances", "text"),
    [
        ({"QWEN_EDIT_WEIGHTS": "int8"}, 1, "int8 does not work with a transformer that is divided"),
        ({}, 2, "2 instances would each take the 2 devices of QWEN_EDIT_DEVICES"),
    ],
)
def test_qwen_edit_settings_that_do_not_go_with_several_devices_are_refused(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], instances: int, text: str
) -> None:
    for name, value in {"QWEN_EDIT_DEVICES": "0,1", "QWEN_EDIT_DEVICE_TYPE": "cpu", **settings}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=text):
        QwenEditTransformerModel().setup(checkpoint.folder, "CPU", 0, instances)
