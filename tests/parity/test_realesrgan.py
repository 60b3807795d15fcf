"""Real-ESRGAN exports against three references: ncnn's own pictures, torch, and the unfolded networks."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from darkroom.pipelines.upscale.networks import NETWORKS, UpscaleNetwork
from darkroom.serving.networks import OrtNetwork
from exporters import manifest, onnx_export
from exporters.errors import ExportError
from exporters.files import ROOT
from exporters.manifest import Precision
from exporters.upscale.architectures import RRDBNet, SRVGGNetCompact, build
from exporters.upscale.export import (
    CHECK_SHAPES,
    MAX_ERROR,
    UpscalerExport,
    check,
    export,
    require_parity,
    to_onnx,
    up_to_date,
)
from exporters.upscale.folding import StridedReduction, fold
from exporters.upscale.weights import load_file
from tests.conftest import heed_ctrl_c

TESTS = Path(__file__).resolve().parent.parent
CROP = (176, 64, 272, 160)  # as in tests/golden/make_ncnn_golden.py
NCNN_BORDER = 10  # ncnn's program mirrors that many pixels around the picture, and cuts them off again

# What an export may be away from ncnn's picture. fp32: other order of sums, so single values round the other way;
# seen 89 dB and more. fp16: see MAX_ERROR.
MIN_PSNR: Mapping[Precision, float] = {"fp32": 70, "fp16": 50}

Images = NDArray[np.uint8]


def small_rrdb() -> nn.Module:
    """One residual-in-residual block with random weights, whose pictures span the range of levels."""
    torch.manual_seed(1)
    network = RRDBNet(blocks=1)
    with torch.no_grad():
        network.conv_last.weight.mul_(8)
        network.conv_last.bias.fill_(0.5)  # type: ignore[union-attr]
    return network


def small_srvgg() -> nn.Module:
    """Two inner convolutions; slopes below 0, in 0..1 and above 1, as the official weights have them."""
    torch.manual_seed(2)
    network = SRVGGNetCompact(blocks=2)
    for layer in network.body:
        if isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, -1.4, 1.7)
    return network


SMALL: Mapping[str, Callable[[], nn.Module]] = {"rrdb": small_rrdb, "srvgg": small_srvgg}


@pytest.fixture(scope="session")
def small_export() -> Callable[[str, int, Precision], bytes]:
    """Exports of the small networks, each made once."""
    done: dict[tuple[str, int, Precision], bytes] = {}

    def get(architecture: str, scale: int, precision: Precision) -> bytes:
        key = (architecture, scale, precision)
        if key not in done:
            done[key] = to_onnx(SMALL[architecture](), scale, precision)
        return done[key]

    return get


def psnr(ours: Images, theirs: Images) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures in dB."""
    error = float(np.mean((ours.astype(np.float64) - theirs.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.label)
def test_installed_export_agrees_with_ncnn(network: UpscaleNetwork) -> None:
    folder = ROOT / "model_repository" / network.model_name / "1"
    installed = manifest.read(folder)
    assert installed is not None, "run `python -m exporters realesrgan` first"
    photo: Images = np.array(Image.open(TESTS / "data" / "astronaut.png").convert("RGB").crop(CROP))
    golden: Images = np.array(Image.open(TESTS / "golden" / f"ncnn_{network.label.replace('-', '_')}.png"))
    sides = (NCNN_BORDER, NCNN_BORDER)

    batch = np.pad(photo, (sides, sides, (0, 0)), mode="reflect")[None]
    upscaled = OrtNetwork(folder / "model.onnx", threads=2).run({"image": batch})["upscaled"][0]

    margin = NCNN_BORDER * network.scale
    ours = upscaled[margin:-margin, margin:-margin]
    assert ours.shape == golden.shape
    assert psnr(ours, golden) >= MIN_PSNR[installed.precision]


CASES = [("rrdb", 4), ("srvgg", 2), ("srvgg", 3), ("srvgg", 4)]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("architecture", "scale"), CASES)
def test_export_agrees_with_torch(
    small_export: Callable[[str, int, Precision], bytes], architecture: str, scale: int, precision: Precision
) -> None:
    model = small_export(architecture, scale, precision)

    difference = check(model, SMALL[architecture](), scale)

    assert difference.maximum <= MAX_ERROR[precision]
    assert {(1, 1, 1), (2, 1, 37)} <= set(CHECK_SHAPES)
    assert max(batch for batch, _, _ in CHECK_SHAPES) == 3


def test_check_notices_other_weights(small_export: Callable[[str, int, Precision], bytes]) -> None:
    model = small_export("srvgg", 4, "fp32")
    other = small_srvgg()
    with torch.no_grad():
        next(other.parameters()).mul_(1.1)

    difference = check(model, other, 4)

    with pytest.raises(ExportError, match=r"realesrgan_x: the fp32 export differs from torch by \d+ levels of 255"):
        require_parity("realesrgan_x", "fp32", difference)


def test_check_notices_another_scale(small_export: Callable[[str, int, Precision], bytes]) -> None:
    assert check(small_export("srvgg", 4, "fp32"), small_srvgg(), 3).maximum == math.inf


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (5, 3)])
@pytest.mark.parametrize(("architecture", "scale"), CASES)
def test_export_gives_exactly_scale_times_the_size(
    small_export: Callable[[str, int, Precision], bytes],
    tmp_path: Path,
    architecture: str,
    scale: int,
    shape: tuple[int, int],
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(small_export(architecture, scale, "fp32"))

    upscaled = OrtNetwork(path).run({"image": np.zeros((3, *shape, 3), np.uint8)})["upscaled"]

    assert upscaled.dtype == np.uint8
    assert upscaled.shape == (3, shape[0] * scale, shape[1] * scale, 3)


def test_rows_of_a_batch_do_not_touch_each_other(
    small_export: Callable[[str, int, Precision], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(small_export("srvgg", 3, "fp32"))
    network = OrtNetwork(path)
    batch: Images = np.random.default_rng(3).integers(0, 256, (3, 9, 14, 3), dtype=np.uint8)

    together = network.run({"image": batch})["upscaled"]

    for index in range(3):
        alone = network.run({"image": batch[index : index + 1]})["upscaled"][0]
        # One level: the engine may sum in another order for another batch size.
        assert np.abs(together[index].astype(int) - alone.astype(int)).max() <= 1


def test_export_carries_no_trace_of_the_machine(small_export: Callable[[str, int, Precision], bytes]) -> None:
    for architecture, scale in CASES:
        model = small_export(architecture, scale, "fp32")
        for trace in (str(ROOT).encode(), b"site-packages", b".py", b"stack_trace"):
            assert trace not in model


@pytest.mark.parametrize("slopes", [False, True])
@pytest.mark.parametrize("architecture", ["rrdb", "srvgg"])
def test_folding_changes_nothing(architecture: str, slopes: bool) -> None:
    network = SMALL[architecture]().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    picture = torch.rand(2, 3, 11, 8)

    with torch.no_grad():
        difference = (fold(network, slopes=slopes)(picture) - network(picture)).abs().max()

    assert difference < 1e-4  # a fortieth of a level; rounding of about 20 sums of up to 1,728 products
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (6, 5)])
@pytest.mark.parametrize("scale", [2, 3])
def test_strided_reduction_is_bicubic_interpolation(scale: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    enlarged = torch.rand(2, 3, shape[0] * 4, shape[1] * 4)
    size = (shape[0] * scale, shape[1] * scale)

    expected = F.interpolate(enlarged, size=size, mode="bicubic", align_corners=False)

    torch.testing.assert_close(StridedReduction(scale)(enlarged), expected, atol=1e-5, rtol=0)


def test_parameters_have_their_official_names() -> None:
    rrdb, srvgg = build("rrdb", 23).state_dict(), build("srvgg", 16).state_dict()

    assert rrdb["body.22.rdb3.conv5.weight"].shape == (64, 192, 3, 3)
    for name in ("conv_first", "body.0.rdb1.conv1", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
        assert {f"{name}.weight", f"{name}.bias"} <= set(rrdb)
    assert len(rrdb) == 702
    assert srvgg["body.0.weight"].shape == (64, 3, 3, 3)
    assert srvgg["body.1.weight"].shape == (64,)
    assert srvgg["body.34.weight"].shape == (48, 64, 3, 3)
    assert len(srvgg) == 53


def save(kind: str, state: dict[str, Any], folder: Path) -> Path:
    """An official file of one of the forms that are in use."""
    path = folder / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if kind == "bare" else {kind: state}, path)
    return path


@pytest.mark.parametrize("kind", ["params_ema", "params", "bare", "safetensors"])
@pytest.mark.parametrize("architecture", ["rrdb", "srvgg"])
def test_official_files_load(architecture: str, kind: str, tmp_path: Path) -> None:
    original = SMALL[architecture]()
    loaded = build(architecture, 1 if architecture == "rrdb" else 2)

    load_file(loaded, save(kind, original.state_dict(), tmp_path))

    state = original.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


def test_params_ema_wins_over_params(tmp_path: Path) -> None:
    averaged, last = small_srvgg().state_dict(), build("srvgg", 2).state_dict()
    path = tmp_path / "both.pth"
    torch.save({"params": last, "params_ema": averaged}, path)
    loaded = build("srvgg", 2)

    load_file(loaded, path)

    assert torch.equal(loaded.state_dict()["body.0.weight"], averaged["body.0.weight"])


def test_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = save("params", small_srvgg().state_dict(), tmp_path)

    with pytest.raises(ExportError, match=r"weights\.pth holds the weights of another network: "):
        load_file(build("rrdb", 1), path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("weights.pth", b"no weights at all", "cannot be read as weights"),
        ("weights.pth", b"", "cannot be read as weights"),
        ("weights.safetensors", b"\xff" * 64, "cannot be read as weights"),
    ],
)
def test_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(ExportError, match=message):
        load_file(build("srvgg", 2), path)


def test_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"params": print}, path)

    with pytest.raises(ExportError, match="cannot be read as weights"):
        load_file(build("srvgg", 2), path)


def test_file_without_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"params": [1, 2]}, path)

    with pytest.raises(ExportError, match="holds no table of weights"):
        load_file(build("srvgg", 2), path)


def test_own_weights_are_installed_and_kept(tmp_path: Path) -> None:
    torch.manual_seed(5)
    original = build("srvgg", 16)
    path = save("params_ema", original.state_dict(), tmp_path)
    network = next(n for n in NETWORKS if n.label == "animevideov3-x3")
    wanted = UpscalerExport(network=network, repository=tmp_path / "models", cache=tmp_path, file=path)
    stages: list[str] = []

    result = export(wanted, stages.append)

    assert stages == ["read weights", "build", "export", "compare", "install"]
    assert result.source == "file"
    assert result.opset == onnx_export.OPSET
    assert check((wanted.folder / "model.onnx").read_bytes(), original, 3).maximum <= MAX_ERROR["fp32"]
    assert up_to_date(wanted) == result
    unnamed = UpscalerExport(network=network, repository=tmp_path / "models", cache=tmp_path)
    assert up_to_date(unnamed) == result


def test_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    path = save("params", build("rrdb", 6).state_dict(), tmp_path)
    command = [sys.executable, "-m", "exporters", "realesrgan", "--model", "x4plus-anime"]
    command += ["--weights", str(path), "--output", str(tmp_path / "models")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, **pipes, text=True, preexec_fn=heed_ctrl_c)
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in maps.read_text():  # from then on it imports torch, exports or compares
        assert process.poll() is None
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)

    assert process.returncode == 1
    assert (output, error.strip()) == ("", "Aborted!")
    assert not (tmp_path / "models").exists()
