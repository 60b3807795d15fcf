"""Fields, ranges and defaults of HiDream's requests; its variants; its models as data."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from darkroom.diffusion.schedulers import (
    FLOW_SCHEDULERS,
    SCHEDULERS,
    flow_config,
    is_flow,
    known_name,
    scheduler_key,
    title,
)
from darkroom.errors import InvalidInput, TooLarge
from darkroom.pipelines.hidream import networks
from darkroom.pipelines.hidream.request import GenerateRequest
from darkroom.pipelines.hidream.settings import Settings
from darkroom.pipelines.hidream.variants import VARIANTS
from darkroom.registry import all_specs
from darkroom.serving.networks import RowCaps
from exporters.config import Placement, model_code, render
from exporters.repository import specs_of


def parse(**fields: Any) -> GenerateRequest:
    return GenerateRequest.parse({"prompt": "a cat", **fields}, Settings())


def test_defaults_are_those_of_the_variant() -> None:
    plain = parse()
    assert (plain.steps, plain.guidance_scale, plain.max_sequence_length) == (50, 5.0, 128)
    assert plain.guided
    dev = GenerateRequest.parse({"prompt": "a cat", "steps": None}, Settings(), {"steps": 28, "guidance_scale": 0.0})
    assert (dev.steps, dev.guidance_scale, dev.guided) == (28, 0.0, False)
    assert parse(steps=3).steps == 3
    assert 0 <= parse().seed < 2**32


def test_variants_are_the_official_ones() -> None:
    assert {name: (v.steps, v.guidance_scale, v.shift) for name, v in VARIANTS.items()} == {
        "full": (50, 5.0, 3.0),
        "dev": (28, 0.0, 6.0),
        "fast": (16, 0.0, 3.0),
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"steps": 151}, "steps"),
        ({"width": 40}, "width"),
        ({"height": 1000}, "height"),
        ({"max_sequence_length": 15}, "max_sequence_length"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"num_images": 0}, "num_images"),
        ({"scheduler": "ddim"}, "scheduler"),
        ({"format": "gif"}, "format"),
        ({"quality": 101}, "quality"),
        ({"progress_every": -1}, "progress_every"),
        ({"preview_every": -1}, "preview_every"),
        ({"seed": -2}, "seed"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(**fields)
    assert caught.value.param == param


def test_sizes() -> None:
    request, small = parse(height=512), SimpleNamespace(side=128, max_tokens=64)
    sized = request.completed(SimpleNamespace(side=1024, max_tokens=4096), Settings())
    assert (sized.width, sized.height) == (1024, 512)
    with pytest.raises(TooLarge, match="1,048,576"):
        parse(width=2048, height=1024)
    with pytest.raises(TooLarge, match="not square"):
        parse(width=512, height=256).completed(small, Settings())
    assert parse(width=512, height=512).completed(small, Settings()).width == 512, "a square one is not padded"


def test_flow_schedulers_have_names_of_their_own() -> None:
    assert not FLOW_SCHEDULERS.keys() & SCHEDULERS.keys()
    for name in FLOW_SCHEDULERS:
        config = flow_config(name, 3.0)
        assert is_flow(config)
        assert scheduler_key(config) == name
        assert known_name(title(name)) == name
    assert parse(scheduler="FlowMatchEulerDiscreteScheduler").scheduler == "flow_euler"
    assert parse(scheduler="UniPCMultistep").scheduler == "flow_unipc"


def test_rows_fall_with_the_size() -> None:
    for parameters in (networks.TRANSFORMER.parameters, networks.TRANSFORMER.parameters_cpu):
        caps = RowCaps.parse(parameters["rows_by_size"])
        assert caps.input == networks.TRANSFORMER.inputs[0].name
        most = [rows for _, rows in caps.rows]
        assert most == sorted(most, reverse=True)
        assert most[0] <= networks.TRANSFORMER.max_batch_size


def test_pictures_that_are_padded_count_as_what_they_cost() -> None:
    caps = replace(RowCaps.parse("hidden_states 1024:16 4096:8 16384:2"), size=networks.padded_area(16384))

    def most(height: int, width: int) -> int:
        return caps.most({"hidden_states": np.zeros((1, 16, height, width), np.float32)})

    assert [most(32, 32), most(32, 24), most(64, 48), most(128, 128), most(160, 128)] == [16, 2, 2, 2, 1]


def test_the_transformer_is_a_batched_network_in_python() -> None:
    text = render(networks.TRANSFORMER, Placement(gpus=(0, 1)))
    assert 'backend: "python"' in text
    assert "dynamic_batching" in text
    assert "KIND_GPU" in text
    assert "decoupled" not in text
    assert "16384:2" in text
    assert "KIND_CPU" in render(networks.PIPELINE, Placement(gpus=(0, 1)))
    assert "from darkroom.pipelines.hidream.transformer_model import " in model_code(networks.TRANSFORMER)


def test_no_repository_has_it_unasked(tmp_path: Any) -> None:
    mine = {spec.name for spec in networks.specs()}
    assert mine < {spec.name for spec in all_specs()}
    assert not mine & {spec.name for spec in specs_of(tmp_path)}
    (tmp_path / "hidream_t5").mkdir()
    assert mine & {spec.name for spec in specs_of(tmp_path)} == {"hidream_t5"}
