"""Networks in bfloat16 on the CPU (CPU_PRECISION=auto) against the same networks in fp32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from darkroom.pipelines.upscale.networks import NETWORKS
from darkroom.serving.batching import NetworkCall
from darkroom.serving.model_config import as_dict, read_config
from darkroom.serving.networks import Array
from darkroom.serving.onnx import bf16
from darkroom.serving.onnx.network import OnnxNetwork
from darkroom.serving.onnx.session import CPU
from tests.pictures import photo, psnr
from tests.service import ROOT

REPOSITORY = ROOT / "model_repository"
SIDE = 48
DECODERS = {"sd15_vae_decoder": 4, "sdxl_vae_decoder": 4, "hidream_vae_decoder": 16}
NOT_MARKED = "sd15_vae_encoder"

pytestmark = pytest.mark.skipif(bf16.reason_against() != "", reason=bf16.reason_against())


@pytest.fixture
def complaints() -> list[str]:
    return []


def opened(name: str, complaints: list[str]) -> OnnxNetwork:
    config: Any = read_config(REPOSITORY / name)
    return OnnxNetwork(as_dict(config), REPOSITORY / name, "1", kind="CPU", device=0, warn=complaints.append)


def run(network: OnnxNetwork, output: str, **inputs: Array) -> Array:
    (answer,) = network.execute([NetworkCall(inputs, (output,))])
    assert not isinstance(answer, Exception), answer
    return answer[output]


def both(name: str, output: str, monkeypatch: pytest.MonkeyPatch, complaints: list[str], **inputs: Array) -> float:
    """PSNR of bfloat16 against fp32, in dB."""
    monkeypatch.setenv("CPU_PRECISION", "fp32")
    exact = opened(name, complaints)
    assert exact.provider == CPU
    monkeypatch.setenv("CPU_PRECISION", "auto")
    quick = opened(name, complaints)
    assert quick.provider == bf16.PROVIDER
    assert complaints == []
    first, second = run(exact, output, **inputs), run(quick, output, **inputs)
    assert (first.shape, first.dtype) == (second.shape, second.dtype)
    return psnr(first, second)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.label)
def test_bf16_upscalers(network: Any, monkeypatch: pytest.MonkeyPatch, complaints: list[str]) -> None:
    image = np.asarray(photo(180, 40, SIDE, SIDE))[None]
    assert both(network.model_name, "upscaled", monkeypatch, complaints, image=image) >= 45


@pytest.mark.parametrize("name", DECODERS)
def test_bf16_vae_decoders(name: str, monkeypatch: pytest.MonkeyPatch, complaints: list[str]) -> None:
    latents = np.random.default_rng(0).normal(size=(2, DECODERS[name], 8, 16)).astype(np.float32)
    assert both(name, "image", monkeypatch, complaints, latents=latents) >= 45


def test_bf16_leaves_other_networks_alone(monkeypatch: pytest.MonkeyPatch, complaints: list[str]) -> None:
    monkeypatch.setenv("CPU_PRECISION", "auto")
    assert opened(NOT_MARKED, complaints).provider == CPU


def test_bf16_rows_of_a_batch_equal_their_own_runs(monkeypatch: pytest.MonkeyPatch, complaints: list[str]) -> None:
    monkeypatch.setenv("CPU_PRECISION", "auto")
    network = opened(NETWORKS[-1].model_name, complaints)
    images = [np.asarray(photo(left, 40, SIDE, SIDE))[None] for left in (100, 180)]
    together = network.execute([NetworkCall({"image": image}, ("upscaled",)) for image in images])
    for image, answer in zip(images, together, strict=True):
        assert not isinstance(answer, Exception), answer
        assert psnr(answer["upscaled"], run(network, "upscaled", image=image)) >= 45


def test_bf16_falls_back_with_a_warning(monkeypatch: pytest.MonkeyPatch, complaints: list[str]) -> None:
    """A network that OpenVINO cannot compile runs in fp32."""
    monkeypatch.setenv("CPU_PRECISION", "auto")
    name = NETWORKS[-1].model_name

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr("openvino.Core.compile_model", refuse)
    assert opened(name, complaints).provider == CPU
    assert complaints == [f"{name} version 1: bfloat16 is not used: no kernel for this; fp32 is used instead"]
