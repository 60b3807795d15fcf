"""LyCORIS' forms of a change, against the formula of each one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from darkroom.diffusion.lora.forms import truncated
from darkroom.diffusion.lora.pack import LowRank, Target
from darkroom.diffusion.lora.read import read
from darkroom.errors import InvalidInput
from tests.lora_files import base, change, kohya, pack_file

BASE = base()
UNET = {target.name: target for target in BASE.components["unet"]}
LINEAR = UNET["down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj"]
CONV = UNET["down_blocks.1.resnets.0.conv1"]
Arrays = dict[str, NDArray[np.float32]]


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def file(target: Target, parts: dict[str, Any], alpha: float | None = None) -> bytes:
    module = f"lora_unet_{target.name.replace('.', '_')}"
    tensors = {f"{module}.{part}": value for part, value in parts.items()}
    if alpha is not None:
        tensors[f"{module}.alpha"] = np.asarray(alpha, np.float32)
    return pack_file(tensors)


def layer(target: Target, parts: dict[str, Any], alpha: float | None = None, **options: Any) -> LowRank:
    pack = read(file(target, parts, alpha), BASE, **options)
    assert pack.applied == pack.total == len(parts) + (alpha is not None)
    return pack.layers["unet"][target.name]


def weights(target: Target) -> tuple[int, ...]:
    """The shape of a module's weights."""
    kernel = (target.kernel, target.kernel) if target.kind == "conv" else ()
    return (target.out_features, target.in_features, *kernel)


def check(found: LowRank, delta: NDArray[Any]) -> None:
    np.testing.assert_allclose(found.delta(), delta.reshape(len(delta), -1), rtol=1e-4, atol=1e-4 * np.abs(delta).max())


def test_lora_tucker_core() -> None:
    out, inside, *kernel = weights(CONV)
    parts = {
        "lora_up.weight": random(out, 3, 1, 1),
        "lora_down.weight": random(3, inside, 1, 1),
        "lora_mid.weight": random(3, 3, *kernel),
    }
    up, down, core = (parts[f"lora_{part}.weight"] for part in ("up", "down", "mid"))
    delta = np.einsum("op,pqhw,qi->oihw", up[:, :, 0, 0], core, down[:, :, 0, 0])
    found = layer(CONV, parts, alpha=1.5)
    assert found.rank == 3
    check(found, delta * 0.5)


@pytest.mark.parametrize("rank", [2, 6])  # 36 is more than the module has, so that it is multiplied out
@pytest.mark.parametrize("target", [LINEAR, CONV])
def test_lora_loha(target: Target, rank: int) -> None:
    parts = {
        f"hada_w{n}_{side}": random(*shape, seed=n)
        for n in (1, 2)
        for side, shape in (("a", (target.out_features, rank)), ("b", (rank, target.columns)))
    }
    delta = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    found = layer(target, parts, alpha=1.0)
    assert found.rank == min(rank * rank, target.columns, target.out_features)
    check(found, delta / rank)


def test_lora_loha_with_cores() -> None:
    out, inside, *kernel = weights(CONV)
    parts, factors = {}, []
    for n in (1, 2):
        core, a, b = random(2, 2, *kernel, seed=n), random(2, out, seed=n), random(2, inside, seed=n)
        parts |= {f"hada_t{n}": core, f"hada_w{n}_a": a, f"hada_w{n}_b": b}
        factors.append(np.einsum("ijhw,ip,jr->prhw", core, a, b))  # LyCORIS' rebuild_tucker
    check(layer(CONV, parts, alpha=1.0), factors[0] * factors[1] / 2)


@pytest.mark.parametrize("split", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("target", [LINEAR, CONV])
def test_lora_lokr(target: Target, split: tuple[bool, bool]) -> None:
    """Two matrices, each whole or as two factors. The scale is 1 where none is split."""
    out, inside, *kernel = weights(target)
    shapes = ((4, 2), (out // 4, inside // 2, *kernel))
    parts: Arrays = {}
    whole = []
    for n, (shape, cut) in enumerate(zip(shapes, split, strict=True), 1):
        columns = int(np.prod(shape[1:]))
        a, b = random(shape[0], 2, seed=n), random(2, columns, seed=n)
        parts |= {f"lokr_w{n}_a": a, f"lokr_w{n}_b": b} if cut else {f"lokr_w{n}": (a @ b).reshape(shape)}
        whole.append((a @ b).reshape(shape))
    first, second = whole
    delta = np.kron(first.reshape(*first.shape, *[1] * len(kernel)), second)
    found = layer(target, parts, alpha=1.0)
    check(found, delta * (0.5 if any(split) else 1.0))


def test_lora_lokr_with_a_core() -> None:
    out, inside, *kernel = weights(CONV)
    first, core = random(4, 2), random(3, 3, *kernel)
    a, b = random(3, out // 4), random(3, inside // 2)
    second = np.einsum("ijhw,ip,jr->prhw", core, a, b)
    found = layer(CONV, {"lokr_w1": first, "lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b}, alpha=6.0)
    check(found, 2.0 * np.kron(first[:, :, None, None], second))


@pytest.mark.parametrize("target", [LINEAR, CONV])
def test_lora_full_difference(target: Target) -> None:
    """Exactly, where the rank may be that of the module; alpha has no meaning for it."""
    delta = random(*weights(target))
    check(layer(target, {"diff": delta}), delta)


def test_lora_full_difference_of_zeros_changes_nothing() -> None:
    found = layer(LINEAR, {"diff": np.zeros(weights(LINEAR), np.float32)})
    assert found.rank == 1
    assert not found.delta().any()


def test_lora_full_difference_of_low_rank_is_found() -> None:
    """A difference that is nearly of a low rank needs no more ranks than that."""
    delta = random(LINEAR.out_features, 3) @ random(3, LINEAR.in_features)
    found = layer(LINEAR, {"diff": delta}, max_rank=8)
    assert (found.rank, found.error) == (3, 0.0)
    check(found, delta)


def test_lora_approximation_is_the_best_one_and_says_its_error() -> None:
    """Against numpy's singular values."""
    delta = random(LINEAR.out_features, LINEAR.in_features) * 0.1 ** np.arange(LINEAR.in_features, dtype=np.float32)
    pack = read(file(LINEAR, {"diff": delta}), BASE, max_rank=2)
    found = pack.layers["unet"][LINEAR.name]
    values = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
    best = float(np.sqrt((values[2:] ** 2).sum() / (values**2).sum()))
    assert found.rank == 2
    assert found.error == pytest.approx(best, rel=1e-4)
    measured = np.linalg.norm(found.delta() - delta) / np.linalg.norm(delta)
    assert measured == pytest.approx(best, rel=1e-3)
    assert f"approximated by rank 2; the relative error is at most {best:.1%} (unet.{LINEAR.name})" in pack.warnings[0]


def test_lora_approximation_that_is_too_far_is_refused() -> None:
    delta = random(*weights(LINEAR))
    with pytest.raises(
        InvalidInput,
        match=rf"some layers cannot be served: at rank 2 they differ .* more than 20%: unet.{LINEAR.name} \(\d\d%\)",
    ):
        read(file(LINEAR, {"diff": delta}), BASE, max_rank=2)


@pytest.mark.parametrize("shape", [(40, 9), (9, 40)])
def test_lora_truncated_of_both_orientations(shape: tuple[int, int]) -> None:
    whole = random(*shape).astype(np.float64)
    found = truncated(whole, 9)
    assert found.rank == 9
    np.testing.assert_allclose(found.delta(), whole, atol=1e-5)
    assert not truncated(np.zeros(shape), 3).delta().any()


@pytest.mark.parametrize("shape", [(500, 300), (300, 500)])
def test_lora_approximation_of_a_large_matrix_is_nearly_the_best_one(shape: tuple[int, int]) -> None:
    """By random vectors, and the same every time. The error is that of what came out."""
    rng = np.random.default_rng(5)
    left, right = (np.linalg.qr(rng.standard_normal((side, 300)))[0] for side in shape)
    values = 1.0 / np.arange(1, 301)
    whole = ((left * values) @ right.T).astype(np.float32)
    found, again = truncated(whole, 40), truncated(whole, 40)
    best = float(np.sqrt((values[40:] ** 2).sum() / (values**2).sum()))
    assert best <= found.error <= 1.01 * best
    measured = np.linalg.norm(found.delta() - whole) / np.linalg.norm(whole)
    assert measured == pytest.approx(found.error, rel=1e-3)
    assert found.up.tobytes() == again.up.tobytes()
    low = truncated(whole @ right[:, :7] @ right[:, :7].T, 40)
    assert (low.rank, low.error) == (7, 0.0)


def test_lora_high_rank_is_reduced() -> None:
    """A plain LoRA of more ranks than a batch shall cost."""
    one = change(LINEAR, 1, rank=40)  # the module has 16 inputs, so that rank 16 is exact
    pack = read(pack_file(kohya("unet", one)), BASE, max_rank=16)
    found = pack.layers["unet"][LINEAR.name]
    assert (found.rank, found.error, pack.rank) == (16, 0.0, 16)
    check(found, one.delta)


def test_lora_forms_on_one_module_add_up() -> None:
    one, delta = change(LINEAR, 1, alpha=1.0), random(*weights(LINEAR))
    tensors = {**kohya("unet", one)}
    module = next(iter(tensors)).partition(".")[0]
    tensors[f"{module}.diff"] = delta
    check(read(pack_file(tensors), BASE).layers["unet"][LINEAR.name], one.delta + delta)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"hada_w1_a": (64, 2), "hada_w1_b": (2, 16), "hada_w2_a": (64, 2)}, "lacks hada_w2_b"),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (32, 2)}, "lacks lokr_w2_b"),
        ({"lokr_w1": (2, 2), "lokr_w2": (60, 8)}, "changes 16 x 120 weights"),
        ({"lora_mid.weight": (2, 2, 3, 3)}, "lacks down and up"),
        ({"diff": (16,)}, r"has diff of the shape \[16\]"),
        ({"diff": (16, 128)}, "changes 128 x 16 weights"),
    ],
)
def test_lora_forms_that_are_not_complete(parts: dict[str, tuple[int, ...]], said: str) -> None:
    with pytest.raises(InvalidInput, match=rf"{LINEAR.name} {said}"):
        read(file(LINEAR, {name: random(*shape) for name, shape in parts.items()}), BASE)


def test_lora_bomb_of_ranks_is_small() -> None:
    """Factors of a huge rank are multiplied out, not multiplied with each other's ranks."""
    import tracemalloc

    rank = 3000  # its product of ranks would need 4.6 GB
    parts = {
        f"hada_w{n}_{side}": random(*shape, seed=n)
        for n in (1, 2)
        for side, shape in (("a", (LINEAR.out_features, rank)), ("b", (rank, LINEAR.columns)))
    }
    data = file(LINEAR, parts)
    tracemalloc.start()
    read(data, BASE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(data)
