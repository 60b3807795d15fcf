"""Networks: the description of a served model (data), and how a pipeline calls it (a protocol).

A pipeline receives `Network` objects and knows neither Triton nor an engine. In a host the implementation is
`darkroom.serving.shared_network.SharedNetwork`; in tests and benchmarks it is `OrtNetwork` or a function over torch.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]
Tensors = Mapping[str, Array]

DType = Literal["BOOL", "UINT8", "INT32", "INT64", "FP16", "FP32", "STRING"]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output. `dims` leaves the batch dimension out; -1 is dynamic. `help` describes it in one line."""

    name: str
    dtype: DType
    dims: tuple[int, ...]
    optional: bool = False
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One folder of the model repository, as data: `exporters.config` renders its config.pbtxt from it.

    `implementation` names the class ("package.module:Class") of a model in Triton's Python backend.
    A model with `on_demand` is in a repository only once it is exported; a repository without it is complete.
    `calls_networks` is False for a pipeline that calls none of its family's networks: it works while they do not.
    `max_batch_size` 0 means that there is no batch dimension (pipelines). Where `max_batch_size_cpu` is given
    it replaces `max_batch_size` for instances on a CPU, where a larger batch costs memory and gains nothing;
    `parameters_cpu` are added to `parameters` there, and `parameters_gpu` on GPUs.
    With `tensors_from_graph` the config leaves inputs and outputs out, and the server reads them from the graph. This
    is for outputs whose size depends on the checkpoint, since Triton requires the exact size.
    `files` are the files that an export has to write beside the config before the model can be served.
    `canary` returns the inputs of one small real inference, which shows the service that the model works;
    `canary_for` replaces it where the inputs depend on which models of the family the repository has: its argument is
    their names, without labels. `canary_model` names the pipeline that gets these inputs, for a model that is only
    reached through one.
    """

    name: str
    backend: Literal["onnxruntime", "python"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    implementation: str = ""
    on_demand: bool = False
    calls_networks: bool = True
    max_batch_size: int = 0
    max_batch_size_cpu: int | None = None
    decoupled: bool = False
    tensors_from_graph: bool = False
    files: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    parameters_cpu: Mapping[str, str] = field(default_factory=dict)
    parameters_gpu: Mapping[str, str] = field(default_factory=dict)
    canary: Callable[[], Tensors] | None = None
    canary_for: Callable[[Collection[str]], Tensors] | None = None
    canary_model: str = ""

    @property
    def is_network(self) -> bool:
        """Whether pipelines call it, in batches; a pipeline itself has no batch dimension."""
        return self.backend != "python" or self.max_batch_size > 0

    def labelled(self, label: str) -> ModelSpec:
        """Return this model for another checkpoint of the same family: "unet" with the label "photos" is "unet.photos".

        Its canary goes to the pipeline of the same label.

        :param label: as `split_label` returns it; "" for the checkpoint without a label.
        """
        if not label:
            return self
        beside = f"{self.canary_model}.{label}" if self.canary_model else ""
        return replace(self, name=f"{self.name}.{label}", canary_model=beside)


_LABEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def split_label(name: str) -> tuple[str, str]:
    """Split the name of a model into the name without its label, and the label ("" if it has none)."""
    plain, _, label = name.partition(".")
    return plain, label


def is_label(text: str) -> bool:
    """Whether a checkpoint may be served under this label: 1 to 40 of a-z, 0-9, _ and -, not beginning with _ or -."""
    return bool(_LABEL.fullmatch(text))


RowSize = Callable[[Sequence[int]], int]
"""Computes the size of a row, its cost compared with other rows, from the shape (rows, ...) of an input."""


def area(shape: Sequence[int]) -> int:
    """Height x width of an input (rows, ..., height, width)."""
    height, width = shape[-2:]
    return height * width


def tokens(shape: Sequence[int]) -> int:
    """Tokens of a packed input (rows, tokens, ...)."""
    return shape[1]


def pixels(shape: Sequence[int]) -> int:
    """Height x width of an input (rows, height, width, channels)."""
    return shape[1] * shape[2]


ROW_SIZES: Mapping[str, RowSize] = {"area": area, "tokens": tokens, "pixels": pixels}
"""The rules that the model parameter `rows_by_size` may name. A family may bring its own in code."""


@dataclass(frozen=True)
class RowCaps:
    """How many rows run together, by the size of one input.

    Rows of large images gain nothing from sharing a batch: they only take longer and need more memory.

    :param input: the input that has the size.
    :param rows: (size, rows) pairs, smallest first; at most `rows` rows of a size up to `size` run at once, and
        larger ones alone.
    :param size: the rule for the size of a row.
    """

    input: str
    rows: tuple[tuple[int, int], ...]
    size: RowSize = area

    @classmethod
    def parse(cls, text: str) -> RowCaps:
        """Read the model parameter `rows_by_size`: "latents 1024:16 4096:8", or with the name of a rule of ROW_SIZES
        before it, "tokens hidden_states 1024:16 4096:8". Without one it is "area".

        :raises ValueError: the text is not of this form.
        """
        names = [word for word in text.split() if ":" not in word]
        pairs = text.split()[len(names) :]
        rule, input = names if len(names) == 2 else ("area", *names)
        rows = tuple(sorted((int(size), int(most)) for size, most in (pair.split(":") for pair in pairs)))
        if not rows or min(most for _, most in rows) < 1 or rule not in ROW_SIZES:
            raise ValueError(text)
        return cls(input, rows, ROW_SIZES[rule])

    def most(self, inputs: Tensors) -> int:
        """The maximum number of rows in a batch with those of `inputs`."""
        size = self.size(inputs[self.input].shape)
        return next((most for largest, most in self.rows if size <= largest), 1)


DECODER_ROWS = {"rows_by_size": "latents 4096:4 9216:2"}
"""Row caps of VAE decoders: an image of 1024 x 1024 takes over 1 GB (docs/decisions/0008-text-to-image-export.md)."""
ENCODER_ROWS = {"rows_by_size": "pixels image 262144:4 589824:2"}
"""The same sizes for VAE encoders, in pixels."""
BF16_ON_CPU = {"bf16_on_cpu": "1"}
"""For networks that may compute in bfloat16 on a CPU, because their images stay within 45 dB of fp32."""


class Network(Protocol):
    """One call of a network: arrays in, arrays out, first dimension the batch, any number of rows.

    :raises OutOfMemory: the engine had no memory for this batch.
    :raises NetworkError: any other failure of the network.
    """

    async def __call__(self, inputs: Tensors) -> dict[str, Array]: ...


class OrtNetwork:
    """A network run in this process by ONNX Runtime, without batching: for benchmarks and parity tests.

    :param path: the .onnx file.
    :param threads: intra-op threads; 0 lets ONNX Runtime take all cores.
    :param device: "cpu", or "cuda" for the first GPU.
    :raises RuntimeError: CUDA does not work here.
    """

    def __init__(self, path: Path, *, threads: int = 0, device: str = "cpu") -> None:
        import onnxruntime as ort  # here, so that pipelines import without an engine

        providers: list[Any] = ["CPUExecutionProvider"]
        if device == "cuda":
            ort.preload_dlls()  # CUDA and cuDNN from pip are not on the library path
            providers.insert(0, ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}))

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(str(path), options, providers=providers)
        if device == "cuda" and "CUDAExecutionProvider" not in self.session.get_providers():
            raise RuntimeError(f"ONNX Runtime runs {path.parent.parent.name} on the CPU; its log says why.")
        self._names = [output.name for output in self.session.get_outputs()]

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """The synchronous call."""
        return dict(zip(self._names, self.session.run(None, dict(inputs)), strict=True))

    async def __call__(self, inputs: Tensors) -> dict[str, Array]:
        return await asyncio.to_thread(self.run, inputs)
