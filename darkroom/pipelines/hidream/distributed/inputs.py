"""What a prediction may be asked for: checked by the leader, because what fails in a rank fails all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from darkroom.errors import InvalidInput
from darkroom.parallel.channel import FLOATS

_DIMENSIONS = {
    "hidden_states": ("B", "C", "H", "W"),
    "timesteps": ("B",),
    "encoder_hidden_states_t5": ("B", "S", "D"),
    "encoder_hidden_states_llama3": ("B", "L", "S", "D"),
    "pooled_embeds": ("B", "P"),
}


def check_inputs(config: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> None:
    """Whether `predict` of a model with that config takes these.

    :param config: of the transformer, as its config.json has it.
    :raises InvalidInput: names the tensor, what it must be, and its shape.
    """
    if inputs.keys() != _DIMENSIONS.keys():
        raise InvalidInput(f"inputs must be {', '.join(_DIMENSIONS)}; got {', '.join(inputs) or 'none'}")
    t5, llama = config["caption_channels"]
    patch, rows = config["patch_size"], next(iter(inputs["hidden_states"].shape), 0)
    wanted = {
        "hidden_states": {"C": config["in_channels"]},
        "encoder_hidden_states_t5": {"D": t5},
        "encoder_hidden_states_llama3": {"D": llama},
        "pooled_embeds": {"P": config["text_emb_dim"]},
    }
    for name, dimensions in _DIMENSIONS.items():
        sizes = {"B": rows, **wanted.get(name, {})}
        _check(name, inputs[name], dimensions, sizes)
    layers, needed = inputs["encoder_hidden_states_llama3"].shape[1], max(config["llama_layers"]) + 1
    if layers < needed:
        raise InvalidInput(f"encoder_hidden_states_llama3 must have L at least {needed}; got {layers}")
    height, width = inputs["hidden_states"].shape[2:]
    if height % patch or width % patch:
        raise InvalidInput(f"hidden_states must have H and W that are multiples of {patch}; got {height} x {width}")
    most = config["max_resolution"][0] * config["max_resolution"][1]
    if height != width and height * width > most:
        raise InvalidInput(f"hidden_states must have H x W of at most {most}; got {height} x {width}")


def _check(name: str, tensor: Tensor, dimensions: tuple[str, ...], sizes: Mapping[str, int]) -> None:
    wanted = tuple(sizes.get(dimension, dimension) for dimension in dimensions)
    shape, kind = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    fits = len(shape) == len(wanted) and all(
        size >= 1 and (isinstance(want, str) or size == want) for size, want in zip(shape, wanted, strict=True)
    )
    if not fits or kind not in FLOATS:
        message = f"{name} must be {' or '.join(FLOATS)} of shape ({_text(wanted)}); got {kind} ({_text(shape)})"
        raise InvalidInput(message)


def _text(shape: tuple[object, ...]) -> str:
    return ", ".join(map(str, shape))
