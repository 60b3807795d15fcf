"""How HiDream's transformer is cut (nothing is lost or held twice, no rank reads the whole), and what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from darkroom.errors import InvalidInput
from darkroom.parallel.checkpoint import ShardedCheckpoint
from darkroom.parallel.cuts import TP, cut_of
from darkroom.parallel.layout import ALL, Layout, Place
from darkroom.pipelines.hidream.distributed import layouts, shard
from darkroom.pipelines.hidream.distributed.inputs import check_inputs
from darkroom.pipelines.hidream.distributed.layouts import EP, LAYOUTS, layout_for, parse_devices
from darkroom.pipelines.hidream.distributed.plan import CUTS, expert_of
from darkroom.pipelines.hidream.distributed.shard import check_divisible
from tests.parallel_models import make_inputs, write_transformer

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = {
    "caption_channels": [24, 16],
    "patch_size": 2,
    "in_channels": 4,
    "text_emb_dim": 20,
    "llama_layers": [0, 2],
    "max_resolution": [16, 16],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transformer(tmp_path_factory.mktemp("transformer"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


def places(layout: Layout) -> list[Place]:
    return [Place(layout=layout, rank=rank) for rank in range(layout.size)]


def load(folder: Path, place: Place) -> dict[str, torch.Tensor]:
    groups = {TP: None, ALL: None}
    model = shard.load_shard(folder, place=place, groups=groups, device=CPU, dtype=torch.float32)
    return dict(model.named_parameters())


def test_layouts_of_the_contract() -> None:
    assert {count: (layout.axes[TP], layout.axes[EP]) for count, layout in LAYOUTS.items()} == {
        1: (1, 1),
        2: (2, 1),
        4: (4, 1),
        8: (4, 2),
    }
    assert all(layout.size == count for count, layout in LAYOUTS.items())
    with pytest.raises(InvalidInput, match="device count must be one of 1, 2, 4, 8; got 3"):
        layout_for(3)


def test_parse_devices_needs_a_layout() -> None:
    assert parse_devices("3,1") == (3, 1)
    with pytest.raises(InvalidInput, match="device count must be one of 1, 2, 4, 8; got 3"):
        parse_devices("0,1,2")
    with pytest.raises(InvalidInput, match="must name each device once"):
        parse_devices("1,1")


@pytest.mark.parametrize("layout", [layout_for(2), layout_for(4), layout_for(8), layouts.layout(tp=1, ep=2)])
def test_the_parts_make_the_whole(folder: Path, whole: dict[str, torch.Tensor], layout: Layout) -> None:
    shards = [load(folder, place) for place in places(layout)]
    for name, tensor in whole.items():
        holders = [part for part in shards if name in part]
        cut = cut_of(CUTS, name)
        if cut is None:
            assert len(holders) == layout.size
            assert all(torch.equal(part[name], tensor) for part in holders), name
            continue
        expert = expert_of(name)
        assert len(holders) == (layout.size if expert is None else layout.axes[TP]), name
        parts = holders if cut.over == "all" else holders[: layout.axes[TP]]
        assert torch.equal(torch.cat([part[name] for part in parts], cut.dim), tensor), name
        for at, part in enumerate(holders):  # groups are copies of each other
            assert torch.equal(part[name], parts[at % len(parts)][name]), name
    assert set().union(*shards) == set(whole)


def test_every_cut_cuts_something(whole: dict[str, torch.Tensor]) -> None:
    used = [cut_of(CUTS, name) for name in whole]
    assert all(cut in used for cut in CUTS)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_no_rank_reads_more_than_its_part(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """What a process holds at its peak is what it has read, and that is what it keeps."""
    read: list[int] = []

    class Counting(ShardedCheckpoint):
        def read(self, name: str, place: Place, **how: Any) -> torch.Tensor:
            part = super().read(name, place, **how)
            read.append(part.untyped_storage().nbytes() // part.itemsize)  # all that the part keeps alive
            return part

    monkeypatch.setattr(shard, "ShardedCheckpoint", Counting)
    layout = layout_for(count)
    with ShardedCheckpoint(folder, CUTS) as checkpoint:
        sizes = {name: torch.Size(checkpoint.shape(name)).numel() for name in checkpoint.names()}
    total = sum(sizes.values())
    replicated = sum(size for name, size in sizes.items() if cut_of(CUTS, name) is None)
    for place in places(layout):
        read.clear()
        kept = sum(parameter.numel() for parameter in load(folder, place).values())
        assert sum(read) == kept
        attention = sum(size for name, size in sizes.items() if ".attn1." in name and cut_of(CUTS, name))
        others = total - replicated - attention
        assert kept == replicated + attention // layout.axes[TP] + others // layout.size
    assert kept < 0.62 * total


def test_several_files_are_one_checkpoint(folder: Path, whole: dict[str, torch.Tensor], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    names = sorted(whole)
    for part in range(3):
        file = tmp_path / f"diffusion_pytorch_model-0000{part + 1}-of-00003.safetensors"
        save_file({name: whole[name] for name in names[part::3]}, file)
    place = Place(layout=layout_for(2), rank=1)
    ours, theirs = load(tmp_path, place), load(folder, place)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("changes", "layout", "message"),
    [
        (
            {"num_attention_heads": 6},
            layout_for(4),
            "6 attention heads cannot be divided among 4 tensor parallel ranks",
        ),
        ({"num_routed_experts": 3}, layout_for(8), "3 routed experts cannot be divided among 2 expert parallel groups"),
        # 6 heads of 8 are a width of 48; the feed-forwards' width is always a multiple of 256
        (
            {"num_attention_heads": 3},
            layouts.layout(tp=3, ep=1),
            "256 elements of dimension 0 of .*w1.weight .* among 3 ranks",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(
    tmp_path: Path, changes: dict[str, int], layout: Layout, message: str
) -> None:
    folder = write_transformer(tmp_path, num_layers=1, num_single_layers=1, llama_layers=[0, 1], **changes)
    with pytest.raises(InvalidInput, match=message):
        check_divisible(folder, layout)
    with pytest.raises(InvalidInput, match=message):
        load(folder, Place(layout=layout, rank=0))


def test_missing_weights_are_named(folder: Path, whole: dict[str, torch.Tensor], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match="no weights"):
        ShardedCheckpoint(tmp_path, CUTS)
    name = next(name for name in whole if name.endswith("to_q.weight"))
    save_file({key: value for key, value in whole.items() if key != name}, tmp_path / WEIGHTS)
    with pytest.raises(KeyError, match=name):
        load(tmp_path, Place(layout=layout_for(2), rank=0))


def test_good_inputs_pass() -> None:
    for rows, height, width in ((1, 8, 8), (3, 8, 12), (2, 32, 32), (1, 64, 4)):
        check_inputs(CONFIG, make_inputs(rows, height, width))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("timesteps", torch.zeros(3), r"timesteps must be .* of shape \(2\); got float32 \(3\)"),
        ("timesteps", torch.zeros(2, dtype=torch.int64), "timesteps must be float32 or .*; got int64"),
        ("hidden_states", torch.zeros(2, 5, 8, 8), r"hidden_states .* \(2, 4, H, W\); got float32 \(2, 5, 8, 8\)"),
        ("hidden_states", torch.zeros(2, 4, 8), r"hidden_states .* got float32 \(2, 4, 8\)"),
        ("hidden_states", torch.zeros(0, 4, 8, 8), r"hidden_states .* got float32 \(0, 4, 8, 8\)"),
        ("hidden_states", torch.tensor(1.0), r"hidden_states .* got float32 \(\)"),
        ("hidden_states", torch.zeros(2, 4, 8, 7), "multiples of 2; got 8 x 7"),
        ("hidden_states", torch.zeros(2, 4, 8, 34), "H x W of at most 256; got 8 x 34"),
        ("encoder_hidden_states_t5", torch.zeros(2, 5, 25), r"t5 .* \(2, S, 24\); got float32 \(2, 5, 25\)"),
        ("encoder_hidden_states_llama3", torch.zeros(2, 2, 5, 16), "llama3 must have L at least 3; got 2"),
        ("pooled_embeds", torch.zeros(2, 19), r"pooled_embeds .* \(2, 20\); got float32 \(2, 19\)"),
    ],
)
def test_bad_inputs_are_refused_before_a_rank_sees_them(name: str, tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_inputs(CONFIG, {**make_inputs(2, 8, 8), name: tensor})


def test_inputs_that_are_missing_or_unknown_are_refused() -> None:
    inputs: dict[str, Any] = make_inputs(1, 8, 8)
    with pytest.raises(InvalidInput, match=r"got .*pooled_embeds, guidance"):
        check_inputs(CONFIG, {**inputs, "guidance": torch.zeros(1)})
    del inputs["timesteps"]
    with pytest.raises(InvalidInput, match="inputs must be hidden_states, timesteps"):
        check_inputs(CONFIG, inputs)
