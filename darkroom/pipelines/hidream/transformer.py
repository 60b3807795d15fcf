"""The transformer in torch: its weights from safetensors, one prediction for many rows, and what runs it.

Architecture and forward pass are diffusers' `HiDreamImageTransformer2DModel` (diffusers 0.42,
models/transformers/transformer_hidream_image.py), eager and with torch's scaled dot product attention. It stays in
torch because its experts are chosen per token: how many rows an expert gets is known only while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from darkroom.errors import InvalidInput
from darkroom.parallel.devices import device_of, kind_of
from darkroom.parallel.job import Timeouts
from darkroom.parallel.transformer import DistributedTransformer

if TYPE_CHECKING:
    from diffusers import HiDreamImageTransformer2DModel

_SHARE_OF_THE_CANARY = 0.75

WEIGHTS_PATTERN = "*.safetensors"


def load_transformer(folder: Path, *, device: torch.device, dtype: torch.dtype) -> HiDreamImageTransformer2DModel:
    """The model of a folder in the diffusers layout, ready for `predict`.

    Weights go file by file to the device: at most one file lies in memory beside the model.

    :param folder: has config.json and the weights as one or several safetensors.
    :raises OSError: config.json or the weights are not there.
    :raises RuntimeError: the weights are those of another model.
    """
    from diffusers import HiDreamImageTransformer2DModel

    files = sorted(folder.glob(WEIGHTS_PATTERN))
    if not files:
        raise FileNotFoundError(f"no weights ({WEIGHTS_PATTERN}) beside config.json")
    with torch.device("meta"):  # no memory, and no random numbers for weights that are replaced at once
        model = HiDreamImageTransformer2DModel.from_config(HiDreamImageTransformer2DModel.load_config(folder))
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= {name: tensor.to(dtype) for name, tensor in load_file(file, device=str(device)).items()}
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def predict(model: HiDreamImageTransformer2DModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the model predicts for B rows, each with its own timestep and prompt.

    The sign is the model's own: the solvers are given its negative, as in diffusers'
    pipelines/hidream_image/pipeline_hidream_image.py.

    :param inputs: float tensors on any device, batch first:
        hidden_states (B, C, H, W), the latents; H and W are multiples of the patch size, and where they differ
        H x W is at most that of the config's `max_resolution`;
        timesteps (B,), 0..1000;
        encoder_hidden_states_t5 (B, S, D);
        encoder_hidden_states_llama3 (B, L, S, D), one for each of Llama's L layers;
        pooled_embeds (B, P), of both CLIPs one after the other.
    :returns: (B, C, H, W) float32, on the model's device.
    """
    weight = next(model.parameters())
    kind, device = weight.dtype, weight.device
    prediction: Tensor = model(
        hidden_states=inputs["hidden_states"].to(device, kind),
        timesteps=inputs["timesteps"].to(device),  # fp32: the sinusoids are computed before they are rounded
        encoder_hidden_states_t5=inputs["encoder_hidden_states_t5"].to(device, kind),
        encoder_hidden_states_llama3=inputs["encoder_hidden_states_llama3"].to(device, kind).transpose(0, 1),
        pooled_embeds=inputs["pooled_embeds"].to(device, kind),
        return_dict=False,
    )[0]
    return prediction.float()


class Executor(Protocol):
    """What the Triton model runs a batch on: `predict` bound to a model that is held somewhere.

    :raises torch.OutOfMemoryError: the device had no memory for this batch.
    """

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor: ...

    def close(self) -> None:
        """Give everything back; it is not called again afterwards."""

    def status(self) -> dict[str, Any]:
        """What is to be shown of it: at least "device" and "dtype", as text."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called, from any thread, when `status` has become another one."""


class LocalExecutor:
    """The whole model on one device of this process."""

    def __init__(self, model: HiDreamImageTransformer2DModel) -> None:
        self._model = model

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return predict(self._model, inputs)

    def close(self) -> None:
        del self._model

    def status(self) -> dict[str, Any]:
        weight = next(self._model.parameters())
        return {"device": str(weight.device), "dtype": str(weight.dtype).removeprefix("torch.")}

    def watch(self, changed: Callable[[], None]) -> None:
        """It stays where it is."""


def make_executor(
    folder: Path,
    *,
    device_type: str,
    devices: Sequence[int],
    dtype: torch.dtype,
    compiled: bool,
    canary_timeout: float,
) -> Executor:
    """The executor that the Triton model asks for: on one device in this process, on several in ranks (decision 12).

    :param device_type: cpu, cuda or npu.
    :param devices: their numbers, 1, 2, 4 or 8; on a CPU only the count matters.
    :param compiled: with `torch.compile`, on one device only: minutes at the first calls of every size. Off, as the
        experts' uneven shares break the graph in every layer.
    :param canary_timeout: seconds after which a prediction counts as hanging. Ranks are given up before, or a canary
        would take them for a server that hangs.
    :raises InvalidInput: an unknown type, a number of devices without a layout, or `compiled` with several devices.
    :raises OSError, RuntimeError: as `load_transformer`.
    """
    if len(devices) != 1:
        if compiled:
            raise InvalidInput("torch.compile is for one device", param="compiled")
        timeouts = Timeouts(call=_SHARE_OF_THE_CANARY * canary_timeout)
        return DistributedTransformer(folder, device_type=device_type, devices=devices, dtype=dtype, timeouts=timeouts)
    model = load_transformer(folder, device=device_of(kind_of(device_type), devices, 0), dtype=dtype)
    if compiled:
        model.compile(dynamic=True)
    return LocalExecutor(model)
