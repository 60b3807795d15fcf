"""backends/onnxruntime on the real tritonserver: one server, many tiny models, one test per promise."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.conftest import RunningTriton, running_triton
from tests.triton import onnx_models as m
from tests.triton.onnx_repository import BAD_MODELS, good_models, write_repository

HUGE = 2**45  # as float32 128 TiB, more than an address space


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    """A server over all the models of onnx_repository."""
    repository = tmp_path_factory.mktemp("repository")
    write_repository(repository)
    work = tmp_path_factory.mktemp("work")
    with running_triton(repository, work, "--model-control-mode=explicit", "--load-model=*") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningTriton) -> Iterator[grpcclient.InferenceServerClient]:
    with server.client() as connected:
        yield connected


def infer(
    client: grpcclient.InferenceServerClient, model: str, outputs: Sequence[str] = (), **arrays: np.ndarray
) -> dict[str, np.ndarray]:
    """Call a model; returns the outputs that came back (all of them unless `outputs` asks for some)."""
    inputs = []
    for name, array in arrays.items():
        inputs.append(grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    wanted = [grpcclient.InferRequestedOutput(name) for name in outputs] or None
    result = client.infer(model, inputs, outputs=wanted)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def together(calls: Sequence[Callable[[], dict[str, np.ndarray]]]) -> list[dict[str, np.ndarray] | Exception]:
    """Make all calls at once; each gives its result or the error it raised."""

    def caught(call: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray] | Exception:
        try:
            return call()
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(caught, calls))


def executions(client: grpcclient.InferenceServerClient, model: str) -> int:
    return int(client.get_inference_statistics(model).model_stats[0].execution_count)


def counted(client: grpcclient.InferenceServerClient, model: str, expected: int) -> bool:
    """Whether this number of executions is counted, or soon will be: Triton counts after it has answered."""
    deadline = time.monotonic() + 5
    while executions(client, model) < expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return executions(client, model) == expected


def every_type(rows: int, columns: int) -> dict[str, np.ndarray]:
    """An array (rows, columns) of every type, made of that type's values of interest."""
    arrays = {}
    for name, (element, values) in m.TYPES.items():
        dtype = np.object_ if name == "BYTES" else m.onnx.helper.tensor_dtype_to_np_dtype(element)
        arrays[name] = np.resize(np.array(values, dtype=dtype), (rows, columns))
    return arrays


# --- tensors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", m.TYPES)
def test_every_type_comes_back_as_it_went_in(client: grpcclient.InferenceServerClient, name: str) -> None:
    arrays = every_type(2, 3)
    out = infer(client, "all_types", [f"{name}_out"], **arrays)
    np.testing.assert_array_equal(out[f"{name}_out"], arrays[name])
    assert out[f"{name}_out"].dtype == arrays[name].dtype


def test_only_requested_outputs_come_back(client: grpcclient.InferenceServerClient) -> None:
    out = infer(client, "all_types", ["INT8_out", "BYTES_out"], **every_type(1, 2))
    assert sorted(out) == ["BYTES_out", "INT8_out"]


def test_many_outputs_come_back_when_none_is_named(client: grpcclient.InferenceServerClient) -> None:
    assert sorted(infer(client, "all_types", **every_type(1, 2))) == sorted(f"{name}_out" for name in m.TYPES)


@pytest.mark.parametrize("name", ["FP32", "BYTES"])
def test_a_tensor_without_elements_keeps_its_shape(client: grpcclient.InferenceServerClient, name: str) -> None:
    out = infer(client, "all_types", [f"{name}_out"], **every_type(2, 0))
    assert out[f"{name}_out"].shape == (2, 0)


@pytest.mark.parametrize("columns", [1, 7])
def test_dynamic_dimensions(client: grpcclient.InferenceServerClient, columns: int) -> None:
    x = np.arange(4 * columns, dtype=np.float32).reshape(4, columns)
    np.testing.assert_array_equal(infer(client, "batch", x=x)["doubled"], 2 * x)


def test_a_scalar_is_one_element_outside(client: grpcclient.InferenceServerClient) -> None:
    out = infer(client, "scalar", x=np.array([1.5], np.float32))["x_out"]
    assert (out.shape, out.tolist()) == ((1,), [1.5])


def test_reshape_of_the_configuration_applies_both_ways(client: grpcclient.InferenceServerClient) -> None:
    flat, square = np.ones((2, 1), np.float32), np.arange(8, dtype=np.float32).reshape(2, 4)
    out = infer(client, "reshaped", flat=flat, square=square)
    np.testing.assert_array_equal(out["flat_out"], flat)
    np.testing.assert_array_equal(out["square_out"], square)


@pytest.mark.parametrize(("given", "expected"), [({}, 1), ({"bias": np.array([5], np.float32)}, 5)])
def test_an_optional_input_may_be_left_out(
    client: grpcclient.InferenceServerClient, given: dict[str, np.ndarray], expected: int
) -> None:
    out = infer(client, "optional", x=np.zeros((2, 3), np.float32), **given)
    assert out["sum"].tolist() == [[expected] * 3] * 2


def test_outputs_of_the_configuration_may_be_a_part_of_the_graphs(client: grpcclient.InferenceServerClient) -> None:
    assert list(infer(client, "optional", x=np.zeros((2, 1), np.float32))) == ["sum"]


@pytest.mark.parametrize("model", ["folder", "beside"])
def test_external_weights_and_other_file_names(client: grpcclient.InferenceServerClient, model: str) -> None:
    assert infer(client, model, x=np.array([[1, 10]], np.float32))["y"].tolist() == [[30, 41, 52]]


# --- batching -------------------------------------------------------------------------------------------------


def test_requests_run_as_one_batch_and_each_gets_its_own_rows(client: grpcclient.InferenceServerClient) -> None:
    before = executions(client, "batch")
    arrays = [np.full((1, 3), 1, np.float32), np.full((1, 3), 2, np.float32), np.full((2, 3), 3, np.float32)]
    answers = together([lambda x=x: infer(client, "batch", x=x) for x in arrays])
    for x, out in zip(arrays, answers, strict=True):
        np.testing.assert_array_equal(out["doubled"], 2 * x)
        assert out["rows"].tolist() == [[4]] * len(x)  # the graph itself saw four rows
    assert counted(client, "batch", before + 1)


@pytest.mark.parametrize(("rows", "ran"), [(1, 1), (2, 4), (3, 4), (4, 4), (6, 6)])
def test_batches_are_filled_up_to_the_rows_of_their_size(
    client: grpcclient.InferenceServerClient, rows: int, ran: int
) -> None:
    """`filled` may run 4 together and fills more than 1; a request that has more than 4 is not divided."""
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    answer = infer(client, "filled", x=x)
    np.testing.assert_array_equal(answer["doubled"], 2 * x)
    assert answer["rows"].tolist() == [[ran]] * rows


def test_requests_of_different_shapes_each_get_their_own_answer(client: grpcclient.InferenceServerClient) -> None:
    arrays = [np.full((2, columns), columns, np.float32) for columns in (2, 3, 2, 3)]
    answers = together([lambda x=x: infer(client, "batch", x=x) for x in arrays])
    for x, out in zip(arrays, answers, strict=True):
        np.testing.assert_array_equal(out["doubled"], 2 * x)


def test_batch_mates_may_ask_for_different_outputs(client: grpcclient.InferenceServerClient) -> None:
    x = np.ones((2, 5), np.float32)
    answers = together([lambda name=name: infer(client, "batch", [name], x=x) for name in ("rows", "doubled")])
    assert [{name: array.tolist() for name, array in out.items()} for out in answers] == [
        {"rows": [[4], [4]]},
        {"doubled": [[2] * 5] * 2},
    ]


def test_a_bad_request_does_not_take_its_batch_mates_along(client: grpcclient.InferenceServerClient) -> None:
    before = executions(client, "lookup")
    calls = [lambda i=i: infer(client, "lookup", index=np.array([[i]])) for i in (3, 99, 0, 7)]
    first, bad, *rest = together(calls)
    assert [out["value"].tolist() for out in (first, *rest)] == [[[30]], [[0]], [[70]]]
    assert isinstance(bad, InferenceServerException)
    assert bad.status() == "StatusCode.INVALID_ARGUMENT"
    assert re.search("lookup version 1: .*idx=99 must be within", bad.message())
    assert counted(client, "lookup", before + 1)  # all four were in one batch


def test_text_that_is_not_utf8_is_the_fault_of_its_request_alone(client: grpcclient.InferenceServerClient) -> None:
    before = executions(client, "text")
    texts = [b"fine", b"\xff\xfe", "où".encode(), b""]
    good, bad, *rest = together([lambda t=t: infer(client, "text", x=np.array([[t]], dtype=np.object_)) for t in texts])
    assert [out["x_out"].tolist() for out in (good, *rest)] == [[[b"fine"]], [["où".encode()]], [[b""]]]
    assert isinstance(bad, InferenceServerException)
    assert bad.status() == "StatusCode.INVALID_ARGUMENT"
    assert "input 'x' has an element that is not valid UTF-8" in bad.message()
    assert counted(client, "text", before + 1)


def test_out_of_memory_is_marked_and_stays_with_its_request(client: grpcclient.InferenceServerClient) -> None:
    before = executions(client, "hungry")
    calls = [lambda n=n: infer(client, "hungry", floats=np.array([[n]])) for n in (1, HUGE, 2, 3)]
    first, bad, *rest = together(calls)
    assert [out["same"].tolist() for out in (first, *rest)] == [[[1]], [[2]], [[3]]]
    assert isinstance(bad, InferenceServerException)
    assert bad.message().startswith("OUT_OF_MEMORY: hungry version 1: ")
    assert counted(client, "hungry", before + 1)


@pytest.mark.parametrize("rows", [2, 3])
def test_an_output_that_is_not_the_batch_is_named(client: grpcclient.InferenceServerClient, rows: int) -> None:
    with pytest.raises(InferenceServerException) as caught:
        infer(client, "collapsing", x=np.ones((rows, 2), np.float32))
    assert f"output 'first' came with shape [1, 2] for a batch of {rows}" in caught.value.message()


# --- configuration --------------------------------------------------------------------------------------------


def test_parameters_reach_the_engine(client: grpcclient.InferenceServerClient) -> None:
    # No arena, but its shrinkage asked for: a run that only fails where both parameters arrived.
    with pytest.raises(InferenceServerException, match=r"Did not find an arena based allocator.*cpu:0"):
        infer(client, "no_arena", x=np.ones(1, np.float32))


def served_config(client: grpcclient.InferenceServerClient, model: str) -> dict[str, object]:
    return dict(client.get_model_config(model, as_json=True)["config"])


def test_auto_complete_of_a_graph_that_can_be_batched(client: grpcclient.InferenceServerClient) -> None:
    config = served_config(client, "auto_batched")
    assert config["max_batch_size"] == 4
    assert "dynamic_batching" in config
    flat = {"data_type": "TYPE_FP32", "dims": ["1"], "reshape": {}}
    assert config["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": ["-1"]},
        {"name": "flat", **flat},
    ]
    assert config["output"] == [
        {"name": "x_out", "data_type": "TYPE_FP32", "dims": ["-1"]},
        {"name": "flat_out", **flat},
    ]
    x, flat_rows = np.ones((3, 2), np.float32), np.arange(3, dtype=np.float32).reshape(3, 1)
    out = infer(client, "auto_batched", x=x, flat=flat_rows)
    np.testing.assert_array_equal(out["flat_out"], flat_rows)


def test_auto_complete_of_a_graph_that_cannot_be_batched(client: grpcclient.InferenceServerClient) -> None:
    config = served_config(client, "auto_fixed")
    assert "max_batch_size" not in config
    assert "dynamic_batching" not in config
    assert [entry["dims"] for entry in config["input"]] == [["2", "-1"], ["1"]]
    out = infer(client, "auto_fixed", x=np.ones((2, 5), np.float32), one=np.ones(1, np.float32))
    assert (out["x_out"].shape, out["one_out"].shape) == ((2, 5), (1,))


def test_a_complete_configuration_is_left_as_it_is(client: grpcclient.InferenceServerClient) -> None:
    config = served_config(client, "collapsing")
    assert "dynamic_batching" not in config


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_wrong_configuration_does_not_load(client: grpcclient.InferenceServerClient, name: str) -> None:
    index = {model.name: model for model in client.get_model_repository_index().models}
    assert index[name].state == "UNAVAILABLE"
    message = index[name].reason.split("\n\nAt:")[0]  # the rest are lines of Python, with the backend's folder
    for part in BAD_MODELS[name][2]:
        assert part in message
    assert not re.search(r"/tmp/|/home/|pytest-", message)


def test_every_good_model_loaded(client: grpcclient.InferenceServerClient) -> None:
    index = {model.name: model.state for model in client.get_model_repository_index().models}
    assert {name: index[name] for name in good_models()} == dict.fromkeys(good_models(), "READY")


# --- providers ------------------------------------------------------------------------------------------------


def provider_series(server: RunningTriton, model: str) -> list[dict[str, str]]:
    """The labels of a model's provider series, as the metrics endpoint shows them; each has the value 1."""
    with urllib.request.urlopen(server.metrics) as answer:
        text = answer.read().decode()
    found = []
    for labels, value in re.findall(r"^darkroom_network_provider\{(.*)\} (\S+)$", text, re.MULTILINE):
        series = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if series["model"] == model:
            assert value == "1"
            found.append(series)
    return found


def test_a_missing_accelerator_is_logged_and_the_next_serves(
    server: RunningTriton, client: grpcclient.InferenceServerClient
) -> None:
    line = next(line for line in server.log.read_text().splitlines() if "OpenVINOExecutionProvider" in line)
    assert line.startswith("W")  # a warning
    assert "openvino version 1: OpenVINOExecutionProvider is not used: this build of onnxruntime does not" in line
    assert "CPUExecutionProvider is used instead" in line
    assert infer(client, "openvino", x=np.ones(3, np.float32))["x_out"].tolist() == [1, 1, 1]
    assert [series["provider"] for series in provider_series(server, "openvino")] == ["CPUExecutionProvider"]


def test_the_provider_in_use_is_a_metric_of_every_instance(server: RunningTriton) -> None:
    series = provider_series(server, "twice")
    assert len({labels.pop("process") for labels in series}) == 2
    expected = {"model": "twice", "version": "1", "provider": "CPUExecutionProvider", "device": "0"}
    assert series == [expected, expected]


def test_the_metric_survives_a_reload_and_goes_with_the_model(
    server: RunningTriton, client: grpcclient.InferenceServerClient
) -> None:
    def settled(count: int) -> list[str]:
        deadline = time.monotonic() + 120
        while True:
            found = [labels["process"] for labels in provider_series(server, "scalar")]
            if len(found) == count or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    before = settled(1)
    changed = {**served_config(client, "scalar"), "parameters": {"new": {"string_value": "1"}}}
    client.load_model("scalar", config=json.dumps(changed))
    deadline = time.monotonic() + 120
    while settled(1) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    after = settled(1)
    assert len(after) == 1
    assert after != before
    client.unload_model("scalar")
    assert settled(0) == []
    client.load_model("scalar")
