"""What rows say of their LoRAs, and which networks take them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.errors import InvalidInput
from darkroom.serving.host import Host, PipelineModel, Reply
from darkroom.serving.lora_layout import LoraLayout
from darkroom.serving.loras import RowLoras, is_digest
from darkroom.serving.networks import Array, ModelSpec, Tensors
from darkroom.serving.pipeline_host import PipelineHost
from supervisor.triton import TritonInstall

A, B, C = "a" * 64, "b" * 64, "c" * 64
LAYOUT = LoraLayout.of("unet", "float32", [("to_q", "linear", 3, 5), ("proj_in", "conv", 4, 2)])


# --- what rows say --------------------------------------------------------------------------------------------


def test_rows_go_through_a_text_unchanged() -> None:
    rows = [{A: 0.7, B: -0.1}, {}, {C: 1.5}]
    there = RowLoras.of_rows(rows)
    back = RowLoras.from_text(there.to_text(), 3)
    assert back.rows() == there.rows()
    assert [list(row) for row in back.rows()] == [[A, B], [], [C]]
    np.testing.assert_array_equal(back.scales, there.scales)


@pytest.mark.parametrize("rows", [[{}, {}], [{A: 0.0}, {B: 0.0, C: 0.0}]])
def test_rows_without_effect_are_an_empty_text(rows: list[dict[str, float]]) -> None:
    there = RowLoras.of_rows(rows)
    assert not there.act
    assert there.to_text() == ""
    assert RowLoras.from_text("", 2).rows() == [{}, {}]


@pytest.mark.parametrize(
    "text",
    [
        "{", "3", "[3]", "[[3]]", '[[["a", 1]]]', f'[[["{A}", "1"]]]', f'[[["{A}", true]]]', f'[[["{A}", NaN]]]',
        f'[[["{A}", 1001]]]', f'[[["{A.upper()}", 1]]]', f'[[["../{A[3:]}", 1]]]', f'[[["{A}", 1]], []]', "[]",
    ],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="loras"):
        RowLoras.from_text(text, 1)


def test_inputs_are_taken_out_again() -> None:
    latents = np.zeros((2, 4))
    own, found = RowLoras.taken_from({"latents": latents, **RowLoras.same(2, {A: 0.5}).inputs()})
    assert list(own) == ["latents"]
    assert found is not None
    assert found.rows() == [{A: 0.5}] * 2
    assert RowLoras.taken_from({"latents": latents})[1] is None


@pytest.mark.parametrize("text", [A, "0123456789" * 6 + "abcd"])
def test_digests(text: str) -> None:
    assert is_digest(text)
    assert not any(is_digest(wrong) for wrong in (text[1:], text + "0", text.upper() + "A", f"/{text[1:]}", None, 3))


# --- who takes them -------------------------------------------------------------------------------------------


class Nothing(PipelineModel):
    spec = ModelSpec(name="pipeline", backend="python", inputs=(), outputs=())

    def setup(self, host: Host) -> None:
        pass

    async def answer(self, fields: dict[str, Any], reply: Reply) -> None:
        pass


async def _never(spec: ModelSpec, inputs: Tensors) -> dict[str, Array]:
    raise AssertionError


def takes_loras(repository: Path) -> bool:
    network = ModelSpec(name="net", backend="onnxruntime", inputs=(), outputs=())
    return PipelineHost(Nothing(), repository / "pipeline", "1", _never).loras([network]) is not None


@pytest.mark.parametrize(("backend", "expected"), [("onnxruntime", True), ("tensorrt", False), ("python", False)])
def test_only_networks_with_the_second_graph_take_loras(tmp_path: Path, backend: str, expected: bool) -> None:
    version = tmp_path / "net" / "1"
    version.mkdir(parents=True)
    assert not takes_loras(tmp_path)
    (version.parent / "config.pbtxt").write_text(f'name: "net"\nbackend: "{backend}"\n')
    assert not takes_loras(tmp_path)
    (version / "lora.json").write_text(LAYOUT.to_json())
    assert takes_loras(tmp_path) is expected


def test_native_backend_takes_no_loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's own, which would leave out without a word what it does not know."""
    version = tmp_path / "net" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text('name: "net"\nbackend: "onnxruntime"\n')
    (version / "lora.json").write_text(LAYOUT.to_json())
    for backends in (tmp_path, None):
        install = TritonInstall(binary=tmp_path / "tritonserver", source="", backends=backends, library_path=())
        monkeypatch.setattr(os, "environ", install.environment())
        assert takes_loras(tmp_path) is (backends is not None)
