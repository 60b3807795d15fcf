"""What a prediction may be asked for: checked by the leader, because what fails in a rank fails all of them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from darkroom.errors import InvalidInput
from darkroom.pipelines.qwen_edit.networks import CONTROL, CONTROL_TEXT, CONTROL_TEXT_TOKENS, POSITIONS, TRANSFORMER
from darkroom.pipelines.qwen_edit.rows import Rows, counts, require_room
from darkroom.serving.networks import TensorSpec

_DTYPES = {"FP32": "float32", "INT32": "int32"}


def check_inputs(width: int, controlnet: bool, inputs: Mapping[str, Tensor]) -> None:
    """Whether `predict` takes these.

    :param width: of the text encoder.
    :param controlnet: whether there is a ControlNet.
    :raises InvalidInput: names the tensor, what it must be, and its shape.
    """
    steered = CONTROL in inputs
    if steered and not controlnet:
        raise InvalidInput(f"{CONTROL} needs a ControlNet, and there is none beside the weights")
    wanted = {spec.name: spec for spec in TRANSFORMER.inputs if steered or not spec.optional}
    if inputs.keys() != wanted.keys():
        raise InvalidInput(f"inputs must be {', '.join(wanted)}; got {', '.join(inputs) or 'none'}")
    batch = next(iter(inputs["hidden_states"].shape), 0)
    for name, spec in wanted.items():
        _check(spec, inputs[name], batch, width if name in ("encoder_hidden_states", CONTROL_TEXT) else -1)
    try:
        rows = Rows.of(inputs)
        if steered:
            require_room(CONTROL, inputs, rows.noisy)
            require_room(CONTROL_TEXT, inputs, counts(inputs[CONTROL_TEXT_TOKENS]))
    except (ValueError, IndexError) as error:
        raise InvalidInput(str(error) or "grids must begin with the noisy image") from None
    longest = max(max(side) for row in rows.grids for side in row) // 2 + max(rows.texts)
    if longest > POSITIONS:
        raise InvalidInput(f"text and images must have at most {POSITIONS} positions together; got {longest}")


def _check(spec: TensorSpec, tensor: Tensor, batch: int, width: int) -> None:
    dims = (batch, *spec.dims[:-1], width if spec.dims[-1] < 0 else spec.dims[-1])
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    fits = len(shape) == len(dims) and all(
        size >= 1 and want in (-1, size) for size, want in zip(shape, dims, strict=True)
    )
    if not fits or dtype != _DTYPES[spec.dtype]:
        raise InvalidInput(f"{spec.name} must be {_DTYPES[spec.dtype]} of shape {dims}; got {dtype} {shape}")
