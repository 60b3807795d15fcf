"""LoRAs of network calls: calls that run together, the folder that networks read, and the slots of the bank."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.errors import InvalidInput, LoraMissing, NetworkError, from_wire, to_wire
from darkroom.serving.batching import NetworkCall, RequestError, pad_to_cap, run_calls
from darkroom.serving.lora_cache import BaseLoras, Layers, LoraCache
from darkroom.serving.lora_layout import DOWN, INDEX, SCALE, UP, LoraLayout
from darkroom.serving.loras import DIGESTS, SCALES, RowLoras
from darkroom.serving.networks import Array, RowCaps, Tensors
from darkroom.serving.onnx.lora_bank import LoraBank, shelf_rank
from darkroom.serving.onnx.lora_graph import with_loras
from darkroom.serving.shared_network import network_error

A, B, C = "a" * 64, "b" * 64, "c" * 64
LAYOUT = LoraLayout.of("unet", "float32", [("to_q", "linear", 3, 5), ("proj_in", "conv", 4, 2)])


@dataclass(frozen=True)
class Matrices:
    down: Array
    up: Array


def lora(rank: int, seed: int, *names: str) -> dict[str, dict[str, Matrices]]:
    """One that changes these modules of LAYOUT; all of them, where none is named."""
    random = np.random.default_rng(seed)
    return {
        "unet": {
            target.name: Matrices(
                random.normal(size=(rank, target.in_features)).astype(np.float32),
                random.normal(size=(target.out_features, rank)).astype(np.float32),
            )
            for target in LAYOUT.targets
            if target.name in names or not names
        }
    }


@pytest.fixture
def cache(tmp_path: Path) -> LoraCache:
    return LoraCache(tmp_path / "loras", limit=1e9)


def write(cache: LoraCache, digest: str, layers: Layers, *layouts: LoraLayout) -> None:
    BaseLoras(cache=cache, layouts=layouts or [LAYOUT]).write(digest, layers)


def make_bank(cache: LoraCache, *, limit: float = 1e9) -> LoraBank:
    return LoraBank(LAYOUT, cache, limit=limit, place=np.array)


def loras_of(*rows: dict[str, float]) -> RowLoras:
    return RowLoras.of_rows(rows)


def changes(given: dict[str, Any], row: int) -> dict[str, Array]:
    """up (scale * down) of a row by module, of the graph's inputs."""
    down, up = given[DOWN][given[INDEX][row]], given[UP][given[INDEX][row]]
    scaled = down * given[SCALE][row][:, None]
    return {
        target.name: up[target.out_offset :][: target.out_features]
        @ scaled[:, target.in_offset :][:, : target.in_features]
        for target in LAYOUT.targets
    }


def expected(*parts: tuple[float, dict[str, dict[str, Matrices]]]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for target in LAYOUT.targets:
        found[target.name] = np.zeros((target.out_features, target.in_features), np.float32)
        for scale, layers in parts:
            if target.name in layers["unet"]:
                matrices = layers["unet"][target.name]
                found[target.name] = found[target.name] + scale * matrices.up @ matrices.down
    return found


def assert_same(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    for name, matrix in wanted.items():
        np.testing.assert_allclose(found[name], matrix, atol=1e-5)


# --- calls that run together ----------------------------------------------------------------------------------


def call(*rows: dict[str, float]) -> NetworkCall:
    return NetworkCall({"x": np.zeros((len(rows), 2), np.float32)}, ["y"], RowLoras.of_rows(rows).to_text())


class Recorder:
    """A network that says of each row how many LoRAs it has."""

    def __init__(self) -> None:
        self.batches: list[list[dict[str, float]]] = []

    def run(self, outputs: Sequence[str], inputs: Tensors) -> list[Array]:
        own, loras = RowLoras.taken_from(inputs)
        rows = loras.rows() if loras is not None else [{}] * len(own["x"])
        self.batches.append(rows)
        if any(C in row for row in rows):
            raise LoraMissing("It is not here.", digest=C)
        return [np.array([[len(row)] for row in rows])]


def test_calls_with_and_without_loras_run_together() -> None:
    recorder = Recorder()
    answers = run_calls(recorder.run, [call({A: 1.0, B: 0.5}, {}), call({}), call({B: 2.0})], batching=True)
    assert [answer["y"].tolist() for answer in answers] == [[[2], [0]], [[0]], [[1]]]  # type: ignore[call-overload]
    assert len(recorder.batches) == 1


def test_calls_without_loras_have_the_inputs_that_they_had() -> None:
    seen: list[Tensors] = []

    def run(outputs: Sequence[str], inputs: Tensors) -> list[Array]:
        seen.append(inputs)
        return [inputs["x"]]

    alone = call({}, {})
    run_calls(run, [alone], batching=True)
    run_calls(run, [alone, alone], batching=True)
    assert [list(inputs) for inputs in seen] == [["x"], ["x"]]
    assert seen[0]["x"] is alone.inputs["x"]


def test_missing_lora_fails_its_own_call_only() -> None:
    recorder = Recorder()
    first, second = run_calls(recorder.run, [call({A: 1.0}), call({C: 1.0})], batching=True)
    assert isinstance(first, dict)
    assert isinstance(second, LoraMissing)
    assert second.digest == C


def test_padding_repeats_the_loras_of_the_last_row() -> None:
    recorder = Recorder()
    run = pad_to_cap(recorder.run, RowCaps.parse("x 64:4"), 1, 8)
    inputs = {"x": np.zeros((3, 2, 2), np.float32), **loras_of({}, {B: 1.0}, {A: 1.0}).inputs()}
    assert len(run(["y"], inputs)[0]) == 3
    assert recorder.batches == [[{}, {B: 1.0}, {A: 1.0}, {A: 1.0}]]


def test_network_without_loras_refuses_them() -> None:
    run = with_loras(lambda outputs, inputs: [inputs["x"]], None)
    plain = {"x": np.zeros((1, 2))}
    assert run(["y"], {**plain, **loras_of({A: 0.0}).inputs()})[0] is plain["x"]
    with pytest.raises(RequestError, match="takes no LoRAs"):
        run(["y"], {**plain, **loras_of({A: 1.0}).inputs()})


def test_missing_lora_is_named_on_its_way_to_the_client() -> None:
    text = to_wire(LoraMissing("It is not here.", param="loras", digest=B))
    found = network_error("unet", f"[INTERNAL] {text}")
    assert isinstance(found, LoraMissing)
    assert found.digest == B
    again = from_wire(to_wire(found))
    assert isinstance(again, LoraMissing)
    assert again.digest == B
    assert isinstance(network_error("unet", "something else"), NetworkError)


# --- the folder -----------------------------------------------------------------------------------------------


def test_cache_gives_back_the_matrices_of_a_network(cache: LoraCache) -> None:
    text = LoraLayout.of("text_encoder", "float32", [("fc1", "linear", 2, 3)])
    more = LoraLayout.of("text_encoder_2", "float32", [("fc1", "linear", 2, 3)])
    layers = lora(2, 0)
    layers["text_encoder"] = {"fc1": Matrices(np.ones((1, 2), np.float32), np.ones((3, 1), np.float32))}
    base = BaseLoras(cache=cache, layouts=[LAYOUT, text, more])
    assert not base.has(A)
    base.write(A, layers, {"rank": 2})
    assert base.has(A)
    assert base.summary(A) == {"rank": 2}
    found = cache.read(A, LAYOUT)
    assert set(found) == {"to_q", "proj_in"}
    np.testing.assert_array_equal(found["to_q"][0], layers["unet"]["to_q"].down)
    np.testing.assert_array_equal(found["to_q"][1], layers["unet"]["to_q"].up)
    assert set(cache.read(A, text)) == {"fc1"}
    assert cache.read(A, more) == {}


def test_cache_has_a_lora_for_each_base_model_apart(cache: LoraCache) -> None:
    """The same file read for a model with other modules is other matrices."""
    other = LoraLayout.of("unet", "float32", [("to_q", "linear", 4, 5), ("to_k", "linear", 4, 5)])
    write(cache, A, lora(2, 0))
    assert cache.has(A, LAYOUT)
    assert not cache.has(A, other)
    half = LoraLayout.of("unet", "float16", [(t.name, t.kind, t.in_features, t.out_features) for t in LAYOUT.targets])
    assert half.key == LAYOUT.key, "the type is the graph's alone"


def test_cache_says_what_is_missing(cache: LoraCache) -> None:
    with pytest.raises(LoraMissing) as caught:
        cache.read(B, LAYOUT)
    assert caught.value.digest == B


@pytest.mark.parametrize("name", ["", "../secret", f"../{A[3:]}", A.upper(), f"{A}.safetensors"])
def test_cache_takes_no_other_names(cache: LoraCache, name: str) -> None:
    assert not cache.has(name, LAYOUT)
    for act in (lambda: cache.read(name, LAYOUT), lambda: write(cache, name, lora(1, 0))):
        with pytest.raises(InvalidInput, match="SHA-256"):
            act()


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64])
def test_damaged_file_is_an_error_of_the_request(cache: LoraCache, tmp_path: Path, content: bytes) -> None:
    write(cache, A, lora(1, 0))
    (tmp_path / "loras" / f"{A}.{LAYOUT.key}.safetensors").write_bytes(content)
    with pytest.raises(InvalidInput, match=A):
        cache.read(A, LAYOUT)


def test_what_was_not_used_for_the_longest_time_is_deleted(tmp_path: Path) -> None:
    cache = LoraCache(tmp_path, limit=1e9)
    for age, digest in ((300, A), (200, B)):
        write(cache, digest, lora(4, 0))
        os.utime(tmp_path / f"{digest}.{LAYOUT.key}.safetensors", (1e9 - age, 1e9 - age))
    size = (tmp_path / f"{A}.{LAYOUT.key}.safetensors").stat().st_size
    cache.read(A, LAYOUT)  # now B is the older one
    write(LoraCache(tmp_path, limit=2.5 * size), C, lora(4, 0))
    assert [cache.has(digest, LAYOUT) for digest in (A, B, C)] == [True, False, True]


# --- the bank -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rank", "shelf"), [(0, 4), (1, 4), (4, 4), (5, 8), (16, 16), (17, 32), (128, 128), (129, 256)]
)
def test_shelf_ranks(rank: int, shelf: int) -> None:
    assert shelf_rank(rank) == shelf


def test_rows_get_their_own_sums(cache: LoraCache) -> None:
    first, second = lora(2, 1), lora(5, 2, "to_q")
    write(cache, A, first)
    write(cache, B, second)
    given = make_bank(cache).inputs(loras_of({A: 0.5}, {}, {B: -1.0, A: 2.0}, {A: 0.25}))
    assert given is not None
    assert given[INDEX].dtype == np.int64
    assert given[SCALE].shape == (4, 8)
    assert given[INDEX][1] == 0
    assert not given[DOWN][0].any()
    assert not given[UP][0].any()
    assert given[INDEX][0] == given[INDEX][3]
    assert_same(changes(given, 0), expected((0.5, first)))
    assert_same(changes(given, 1), expected())
    assert_same(changes(given, 2), expected((2.0, first), (-1.0, second)))
    assert_same(changes(given, 3), expected((0.25, first)))


def test_equal_rows_are_one(cache: LoraCache) -> None:
    write(cache, A, lora(2, 1))
    bank = make_bank(cache)
    same = bank.inputs(loras_of({A: 0.5}, {A: 0.5}, {A: 0.5}))
    other = bank.inputs(loras_of({A: 0.5}, {A: 0.5}, {A: 0.25}))
    assert same is not None
    assert other is not None
    assert (same[INDEX].shape, same[SCALE].shape) == ((1,), (1, 4))
    assert (other[INDEX].shape, other[SCALE].shape) == ((3,), (3, 4))
    assert_same(changes(same, 0), expected((0.5, lora(2, 1))))


def test_slots_are_written_once(cache: LoraCache, tmp_path: Path) -> None:
    write(cache, A, lora(2, 1))
    write(cache, B, lora(2, 2))
    bank = make_bank(cache)
    bank.inputs(loras_of({A: 1.0}))
    (tmp_path / "loras" / f"{A}.{LAYOUT.key}.safetensors").unlink()
    bank.inputs(loras_of({B: 1.0}))
    given = bank.inputs(loras_of({A: 0.5}))
    assert bank.loads == 2
    assert given is not None
    assert_same(changes(given, 0), expected((0.5, lora(2, 1))))


def test_batch_costs_its_largest_rank(cache: LoraCache) -> None:
    small, large = lora(3, 1), lora(20, 2)
    write(cache, A, small)
    write(cache, B, large)
    bank = make_bank(cache)
    alone = bank.inputs(loras_of({A: 1.0}))
    together = bank.inputs(loras_of({A: 1.0}, {B: 1.0}))
    assert alone is not None
    assert together is not None
    assert (alone[DOWN].shape[1], together[DOWN].shape[1]) == (4, 32)
    assert_same(changes(together, 0), expected((1.0, small)))
    assert_same(changes(together, 1), expected((1.0, large)))
    again = bank.inputs(loras_of({A: 1.0}))
    assert again is not None
    assert again[DOWN].shape[1] == 4
    assert_same(changes(again, 0), expected((1.0, small)))


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_limit_holds_and_the_least_used_slot_goes(cache: LoraCache, slots: int) -> None:
    digests = [f"{n:064x}" for n in range(6)]
    packs = [lora(4, n) for n in range(6)]
    for digest, pack in zip(digests, packs, strict=True):
        write(cache, digest, pack)
    size = 4 * 4 * (LAYOUT.in_features + LAYOUT.out_features)
    limit = (slots + 1) * size
    bank = make_bank(cache, limit=limit)
    random = np.random.default_rng(0)
    for _ in range(60):
        chosen = random.choice(6, int(random.integers(1, slots + 1)), replace=False)
        given = bank.inputs(loras_of(*({digests[n]: 1.0} for n in chosen)))
        assert given is not None
        assert bank.size <= limit
        for row, n in enumerate(chosen):
            assert_same(changes(given, row), expected((1.0, packs[n])))


def test_batch_may_take_more_than_the_limit(cache: LoraCache) -> None:
    write(cache, A, lora(4, 1))
    write(cache, B, lora(40, 2))
    bank = make_bank(cache, limit=1)
    for rows in ([{A: 1.0}], [{B: 1.0}], [{A: 1.0}, {B: 1.0}], [{A: 1.0}]):
        assert bank.inputs(loras_of(*rows)) is not None
    assert bank.size == 2 * 4 * 4 * (LAYOUT.in_features + LAYOUT.out_features), "larger slots have gone"


def test_lora_of_other_parts_changes_nothing_here(cache: LoraCache) -> None:
    write(cache, A, {"text_encoder": lora(2, 1)["unet"]})
    assert make_bank(cache).inputs(loras_of({A: 1.0})) is None


def test_lora_of_another_checkpoint_is_refused(cache: LoraCache) -> None:
    bank = make_bank(cache)
    write(cache, A, {"unet": {"to_k": Matrices(np.ones((1, 3)), np.ones((5, 1)))}})
    with pytest.raises(InvalidInput, match=r"changes to_k, which this network does not have"):
        bank.inputs(loras_of({A: 1.0}))
    write(cache, B, {"unet": {"to_q": Matrices(np.ones((1, 4)), np.ones((5, 1)))}})
    with pytest.raises(InvalidInput, match=r"to_q is 5 x 3, its matrices are \[5, 1\] and \[1, 4\]"):
        bank.inputs(loras_of({B: 1.0}))
    with pytest.raises(LoraMissing):
        bank.inputs(loras_of({C: 1.0}))


def test_rank_of_all_loras_of_a_row_has_a_limit(cache: LoraCache) -> None:
    write(cache, A, lora(2500, 1, "to_q"))
    write(cache, B, lora(2500, 2, "to_q"))
    bank = make_bank(cache)
    assert bank.inputs(loras_of({A: 1.0}, {B: 1.0})) is not None
    with pytest.raises(InvalidInput, match="4096 together; got 5000"):
        bank.inputs(loras_of({A: 1.0, B: 1.0}))


def test_layout_goes_through_its_file(tmp_path: Path) -> None:
    assert LoraLayout.read(tmp_path) is None
    (tmp_path / "lora.json").write_text(LAYOUT.to_json())
    assert LoraLayout.read(tmp_path) == LAYOUT
    assert [(target.in_offset, target.out_offset) for target in LAYOUT.targets] == [(0, 0), (3, 5)]


def test_names_of_the_arrays() -> None:
    """Pipelines and hosts agree on them."""
    assert set(loras_of({A: 1.0}).inputs()) == {DIGESTS, SCALES}
