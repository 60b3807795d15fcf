"""The second graph of a network, which takes LoRAs, on a small one: the same trace, other arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from darkroom.diffusion.lora_targets import targets_of
from darkroom.serving.lora_layout import DOWN, INDEX, SCALE, UP, LoraLayout
from darkroom.serving.networks import Array, OrtNetwork
from exporters import lora as lora_graph
from exporters import onnx_export
from exporters.graphs import lora
from exporters.lora import LoraPart, LoraPoints, flat_matrices, random_matrices, take_marks

PART = LoraPart(component="net", attribute="net", within=r"blocks\..*", prefix="model.")
RANK = 3


class Net(nn.Module):
    """(rows, 4, h, w) -> (rows, 6, h, w): a convolution to each pixel's own, linear layers over pixels as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(
            {
                "into": nn.Conv2d(4, 8, 1),
                "first": nn.Linear(8, 16),
                "second": nn.Linear(16, 6, bias=False),
                "wide": nn.Conv2d(6, 6, 3, padding=1),
            }
        )
        self.outside = nn.Linear(6, 6)

    def forward(self, image: Tensor) -> Tensor:
        pixels = self.blocks["into"](image)
        tokens = pixels.flatten(2).transpose(1, 2)
        changed = self.outside(self.blocks["second"](torch.nn.functional.gelu(self.blocks["first"](tokens))))
        result: Tensor = self.blocks["wide"](changed.transpose(1, 2).unflatten(2, image.shape[2:]))
        return result


def exported(net: Net, folder: Path) -> tuple[LoraLayout, LoraPoints, list[Path]]:
    """Both graphs, in a folder."""
    height, width = (onnx_export.dimension(name, minimum=2) for name in ("height", "width"))
    with lora.marked(net, PART):
        model = onnx_export.export_onnx(
            net,
            {"image": torch.zeros(2, 4, 5, 7)},
            dynamic={"image": {0: onnx_export.dimension("rows"), 2: height, 3: width}},
            outputs=["result"],
            translations=lora.translations(),
        )
    points = take_marks(model, lora.layout_of(net, PART))
    files = onnx_export.save(model, folder)
    return points.layout, points, [*files, *lora_graph.save(model, points, folder)]


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def folder(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("graphs")
    exported(net, made)
    return made


def images(rows: int, height: int = 6, width: int = 4) -> Array:
    return np.random.default_rng(3).normal(size=(rows, 4, height, width)).astype(np.float32)


def inputs_for(layout: LoraLayout, image: Array, index: list[int], scale: Array, *slots: Any) -> dict[str, Array]:
    down, up = flat_matrices(layout, list(slots), RANK)
    return {"image": image, INDEX: np.array(index), SCALE: scale.astype(np.float32), DOWN: down, UP: up}


def merged(net: Net, matrices: dict[str, tuple[Array, Array]], scale: Array) -> Net:
    """The network with a LoRA in its weights."""
    changed = Net()
    changed.load_state_dict(net.state_dict())
    with torch.no_grad():
        for name, (down, up) in matrices.items():
            weight = changed.get_submodule(name.removeprefix("model.")).weight
            assert isinstance(weight, Tensor)
            weight += torch.from_numpy((up * scale) @ down).reshape(weight.shape)
    return changed.eval()


def answer(net: Net, image: Array) -> Array:
    with torch.no_grad():
        return np.asarray(net(torch.from_numpy(image)))


def layout_in(folder: Path) -> LoraLayout:
    found = LoraLayout.read(folder)
    assert found is not None
    return found


def test_lora_targets_are_linear_layers_and_pointwise_convolutions(folder: Path) -> None:
    layout = layout_in(folder)
    assert [(target.name, target.kind, target.in_features, target.out_features) for target in layout.targets] == [
        ("model.blocks.into", "conv", 4, 8),
        ("model.blocks.first", "linear", 8, 16),
        ("model.blocks.second", "linear", 16, 6),
    ]
    targets = targets_of("net", [layout]).components["net"]
    assert [(target.name, target.kernel, target.kind) for target in targets if not target.servable] == [
        ("model.blocks.wide", 3, "conv"),
        ("model.outside", 1, "linear"),
    ]
    assert [target.name for target in targets if target.servable] == list(layout.by_name)


def test_lora_plain_graph_has_no_trace_of_the_marks(net: Net, folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    assert {entry.domain for entry in model.opset_import} <= {"", "pkg.onnxscript.torch_lib.common"}
    assert [given.name for given in model.graph.input] == ["image"]
    image = images(3)
    ours = OrtNetwork(folder / "model.onnx").run({"image": image})["result"]
    np.testing.assert_allclose(ours, answer(net, image), atol=1e-5)


def test_lora_rows_are_those_of_merged_weights(net: Net, folder: Path) -> None:
    layout, random = layout_in(folder), np.random.default_rng(1)
    packs = [random_matrices(layout, RANK, random) for _ in range(2)]
    scale = random.uniform(-1, 2, (4, RANK))
    image = images(4)
    given = inputs_for(layout, image, [1, 0, 2, 1], scale, *packs)

    ours = OrtNetwork(folder / "lora.onnx").run(given)["result"]

    plain = answer(net, image)
    np.testing.assert_allclose(ours[1], plain[1], atol=1e-5)
    for row, pack in ((0, packs[0]), (2, packs[1]), (3, packs[0])):
        theirs = answer(merged(net, pack, scale[row]), image[row : row + 1])[0]
        np.testing.assert_allclose(ours[row], theirs, atol=1e-5)
        assert np.abs(theirs - plain[row]).max() > 1e-3


def test_lora_of_all_rows_is_given_once(folder: Path) -> None:
    layout = layout_in(folder)
    pack, scale = random_matrices(layout, RANK, np.random.default_rng(2)), np.full((3, RANK), 0.7)
    network = OrtNetwork(folder / "lora.onnx")
    each = network.run(inputs_for(layout, images(3), [1, 1, 1], scale, pack))["result"]
    once = network.run(inputs_for(layout, images(3), [1], scale[:1], pack))["result"]
    np.testing.assert_allclose(each, once, atol=1e-6)


def test_lora_hooks_are_merged_weights(net: Net, folder: Path) -> None:
    """What every export is compared with."""
    pack = random_matrices(layout_in(folder), RANK, np.random.default_rng(4))
    tensors = {name: (torch.from_numpy(down), torch.from_numpy(up)) for name, (down, up) in pack.items()}
    with lora.applied(net, PART, tensors):
        ours = answer(net, images(2))
    np.testing.assert_allclose(ours, answer(merged(net, pack, np.ones(RANK)), images(2)), atol=1e-5)
    np.testing.assert_array_equal(answer(net, images(2)), answer(merged(net, {}, np.ones(RANK)), images(2)))


def test_lora_graph_reads_the_weights_of_the_plain_one(
    net: Net, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large model, whose weights lie in a file of their own."""
    monkeypatch.setattr(onnx_export, "LARGEST_SINGLE_FILE", 100)
    layout, _, files = exported(net, tmp_path)
    assert [file.name for file in files] == ["model.onnx.data", "model.onnx", "lora.onnx", "lora.json"]
    pack = random_matrices(layout, RANK, np.random.default_rng(5))
    given = inputs_for(layout, images(2), [1, 0], np.ones((2, RANK)), pack)
    ours = OrtNetwork(tmp_path / "lora.onnx").run(given)["result"]
    np.testing.assert_array_equal(ours, OrtNetwork(folder / "lora.onnx").run(given)["result"])
    location = {
        entry.value
        for tensor in onnx.load(tmp_path / "lora.onnx", load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert location == {"model.onnx.data"}


def test_lora_module_that_is_called_twice_is_refused(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleDict({"only": nn.Linear(4, 4)})

        def forward(self, image: Tensor) -> Tensor:
            result: Tensor = self.blocks["only"](self.blocks["only"](image)) * 2
            return result

    net = Twice()
    with lora.marked(net, PART):
        model = onnx_export.export_onnx(
            net,
            {"image": torch.zeros(2, 3, 4)},
            dynamic={"image": {0: onnx_export.dimension("rows")}},
            outputs=["result"],
            translations=lora.translations(),
        )
    with pytest.raises(ValueError, match="2 calls of 1 of the 1 modules"):
        take_marks(model, lora.layout_of(net, PART))
