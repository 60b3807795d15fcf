"""The forms in which files store the change of a module, each as low-rank matrices.

LoRA (https://arxiv.org/abs/2106.09685), with a Tucker core for convolutions, LoHa, LoKr and full differences; the
names and shapes are LyCORIS' (https://arxiv.org/abs/2309.14859).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkroom.diffusion.lora.pack import LowRank, Matrix, Target

Parts = Mapping[str, Matrix]
"""Part ("down", "up", "hada_w1_a", ...) -> its tensor."""

ENOUGH = 1e-3
"""Relative error from which on more ranks are not worth their time: less than the rounding of float16."""


LARGEST = 65504
SKETCH = 32
"""Vectors that a large matrix is applied to, beyond its wanted rank."""


class Misfit(ValueError):
    """The tensors do not fit each other or the module; the message says which and how."""


@dataclass(frozen=True, kw_only=True)
class _Factors:
    """A change `up @ down`, before it is checked against its module.

    :param down: (rank, columns). :param up: (out, rank).
    """

    down: Matrix
    up: Matrix


Scale = Callable[[int], float]
"""The factor of a change by its rank in the file: alpha / rank."""


def low_rank(parts: Parts, target: Target, scale: Scale, max_rank: int) -> LowRank:
    """The change of one module. Where several forms stand for it, their sum.

    :param max_rank: changes of a higher rank become the best approximation of this rank, with its error.
    :raises Misfit: a part is missing, or a shape is not the module's.
    """
    found = [form(parts, target, scale) for names, form in _FORMS if names & parts.keys()]
    if not found:
        raise Misfit("has alpha and no matrices")
    rank = sum(factors.down.shape[0] for factors in found)
    if rank <= max_rank:
        down = np.concatenate([factors.down for factors in found])
        up = np.concatenate([factors.up for factors in found], axis=1)
        return LowRank(down=np.ascontiguousarray(down, np.float32), up=np.ascontiguousarray(up, np.float32))
    return truncated(np.asarray(sum(factors.up @ factors.down for factors in found)), max_rank)


def truncated(whole: NDArray[np.floating[Any]], max_rank: int) -> LowRank:
    """The best approximation of a matrix with a lower rank, or nearly the best one of a large matrix.

    :param whole: (out, columns).
    :param max_rank: fewer are taken where the error is below ENOUGH with them.
    """
    wide = whole.shape[0] < whole.shape[1]
    short = whole if wide else whole.T  # no more rows than columns
    total = float(np.square(short, dtype=np.float64).sum())
    if total == 0.0:
        return _zero(whole.shape)
    basis = _basis(short, max_rank + SKETCH)
    core = (short if basis is None else basis.T @ short).astype(np.float64)
    energies, vectors = np.linalg.eigh(core @ core.T)
    left = np.maximum(1.0 - np.cumsum(np.maximum(energies[::-1], 0.0)) / total, 0.0) ** 0.5
    enough = np.flatnonzero(left <= ENOUGH)
    rank = min(int(enough[0]) + 1 if len(enough) else len(left), max_rank)
    main = vectors[:, ::-1][:, :rank]
    main = main if basis is None else basis @ main
    rest, error = main.T @ short, float(left[rank - 1])
    up, down = (main, rest) if wide else (rest.T, main.T)
    return LowRank(
        down=np.ascontiguousarray(down, np.float32),
        up=np.ascontiguousarray(up, np.float32),
        error=error if error > ENOUGH else 0.0,
    )


def _basis(short: NDArray[np.floating[Any]], width: int) -> NDArray[np.floating[Any]] | None:
    """Orthonormal columns that span nearly all that a large matrix does, by random vectors that it is applied to.

    Halko et al., https://arxiv.org/abs/0909.4061, algorithm 4.4; the same vectors every time.

    :returns: (rows, width); None for a matrix that is not much larger than that.
    """
    rows, columns = short.shape
    if rows <= 2 * width:
        return None
    start = np.random.default_rng(0).standard_normal((columns, width), np.float32)
    basis = np.linalg.qr(short @ start)[0]
    for _ in range(2):
        basis = np.linalg.qr(short @ (short.T @ basis))[0]
    return basis


def _zero(shape: tuple[int, ...]) -> LowRank:
    """No change, as one rank."""
    return LowRank(down=np.zeros((1, shape[1]), np.float32), up=np.zeros((shape[0], 1), np.float32))


def _need(parts: Parts, *names: str) -> list[Matrix]:
    """Parts that belong together.

    :raises Misfit: one is missing.
    """
    if missing := [name for name in names if name not in parts]:
        raise Misfit(f"lacks {' and '.join(missing)}")
    return [parts[name] for name in names]


def _checked(down: Matrix, up: Matrix, target: Target, scale: float) -> _Factors:
    """Factors of a module, scaled.

    :raises Misfit: they are not of its shape.
    """
    if down.shape[1] != target.columns or up.shape[0] != target.out_features:
        raise Misfit(f"changes {down.shape[1]} x {up.shape[0]} weights, and the module has {target.described}")
    with np.errstate(over="ignore"):
        up = up * np.float32(scale)
    if not max(np.abs(matrix).max(initial=0) for matrix in (down, up)) <= LARGEST:
        raise Misfit(f"has values above {LARGEST:,}, the largest number of float16")
    return _Factors(down=down, up=up)


def _rows(matrix: Matrix, name: str) -> Matrix:
    """(rank, ...) as (rank, columns): of a convolution the kernel goes into the columns.

    :raises Misfit: it has another number of dimensions, or no values.
    """
    if matrix.ndim not in (2, 4) or 0 in matrix.shape:
        raise Misfit(f"has {name} of the shape {list(matrix.shape)}")
    return matrix.reshape(matrix.shape[0], -1)


def _check_size(rows: int, columns: int, target: Target) -> None:
    """:raises Misfit: a product would be larger than the module."""
    if rows > target.out_features or columns > target.columns:
        raise Misfit(f"changes {columns} x {rows} weights, and the module has {target.described}")


def _check_inner(up: Matrix, down: Matrix) -> None:
    """:raises Misfit: two factors have not the same rank."""
    if up.shape[1] != down.shape[0]:
        raise Misfit(f"has factors of the ranks {up.shape[1]} and {down.shape[0]}")


def _lora(parts: Parts, target: Target, scale: Scale) -> _Factors:
    """LoRA: up @ down; with a Tucker core up @ core @ down for each pixel of the kernel."""
    down, up = _need(parts, "down", "up")
    down, up = _rows(down, "down"), _rows(up, "up")
    factor = scale(down.shape[0])
    if "mid" in parts:
        down = _core(parts["mid"], down, up, target)
    _check_inner(up, down)
    return _checked(down, up, target, factor)


def _core(core: Matrix, down: Matrix, up: Matrix, target: Target) -> Matrix:
    """A Tucker core (ranks of up, ranks of down, height, width) times down (ranks of down, in), as (rank, columns).

    :param up: (out, ranks of up).
    :raises Misfit: the ranks differ, or the result would be larger than the module. That is checked before anything is
        multiplied: the product of small factors can be of any size.
    """
    if core.ndim != 4 or 0 in core.shape or core.shape[:2] != (up.shape[1], down.shape[0]):
        raise Misfit(f"has a core of the shape {list(core.shape)} for the ranks {up.shape[1]} and {down.shape[0]}")
    _check_size(len(up), down.shape[1] * core.shape[2] * core.shape[3], target)
    product: Matrix = np.einsum("pqhw,qi->pihw", core, down)
    return product.reshape(core.shape[0], -1)


def _loha(parts: Parts, target: Target, scale: Scale) -> _Factors:
    """LoHa: the elementwise product of two low-rank matrices. Its rank is the product of theirs, exactly."""
    up1, down1 = _pair(parts, "hada_w1_a", "hada_w1_b", "hada_t1", target)
    up2, down2 = _pair(parts, "hada_w2_a", "hada_w2_b", "hada_t2", target)
    if up1.shape[0] != up2.shape[0] or down1.shape[1] != down2.shape[1]:
        raise Misfit("has two products of different shapes")
    factor = scale(parts["hada_w1_b"].shape[0])
    if down1.shape[0] * down2.shape[0] > min(len(up1), down1.shape[1]):
        up, down = _split((up1 @ down1) * (up2 @ down2))
        return _checked(down, up, target, factor)
    up = (up1[:, :, None] * up2[:, None, :]).reshape(len(up1), -1)
    down = (down1[:, None, :] * down2[None, :, :]).reshape(-1, down1.shape[1])
    return _checked(down, up, target, factor)


def _pair(parts: Parts, a: str, b: str, core: str, target: Target) -> tuple[Matrix, Matrix]:
    """A low-rank matrix as (out, rank), (rank, columns). With a Tucker core, both factors have the rank first.

    :raises Misfit: a part is missing, ranks differ, or the matrix would be larger than the module.
    """
    up, down = _need(parts, a, b)
    up, down = _rows(up, a), _rows(down, b)
    if core in parts:
        up = up.T
        down = _core(parts[core], down, up, target)
    _check_inner(up, down)
    _check_size(len(up), down.shape[1], target)
    return _split(up @ down) if down.shape[0] > min(len(up), down.shape[1]) else (up, down)


def _split(whole: Matrix) -> tuple[Matrix, Matrix]:
    """A matrix as two factors, one of which is the identity: (out, rank), (rank, columns)."""
    identity = np.eye(min(whole.shape), dtype=np.float32)
    return (identity, whole) if len(identity) == whole.shape[0] else (whole, identity)


def _lokr(parts: Parts, target: Target, scale: Scale) -> _Factors:
    """LoKr: the Kronecker product of two matrices, each whole or as two factors.

    The scale is that of the split one; of two whole ones it is 1.
    """
    up1, down1 = _factor(parts, "lokr_w1", "lokr_t1", target)
    up2, down2 = _factor(parts, "lokr_w2", "lokr_t2", target)
    if up1.shape[0] * up2.shape[0] != target.out_features or down1.shape[1] * down2.shape[1] != target.columns:
        raise Misfit(
            f"changes {down1.shape[1] * down2.shape[1]} x {up1.shape[0] * up2.shape[0]} weights, "
            f"and the module has {target.described}"
        )
    split = parts.get("lokr_w2_b", parts.get("lokr_w1_b"))
    factor = 1.0 if split is None else scale(split.shape[0])
    return _checked(np.kron(down1, down2), np.kron(up1, up2), target, factor)


def _factor(parts: Parts, name: str, core: str, target: Target) -> tuple[Matrix, Matrix]:
    """One matrix of a Kronecker product as (out, rank), (rank, columns)."""
    if name not in parts:
        return _pair(parts, f"{name}_a", f"{name}_b", core, target)
    return _split(_rows(parts[name], name))


def _full(parts: Parts, target: Target, scale: Scale) -> _Factors:
    """A full difference. It has no scale."""
    whole = _rows(parts["diff"], "diff")
    if not whole.any():
        zero = _zero(whole.shape)
        return _checked(zero.down, zero.up, target, 1.0)
    up, down = _split(whole)
    return _checked(down, up, target, 1.0)


_FORMS: tuple[tuple[frozenset[str], Callable[[Parts, Target, Scale], _Factors]], ...] = (
    (frozenset({"down", "up", "mid"}), _lora),
    (frozenset({f"hada_w{n}_{side}" for n in (1, 2) for side in "ab"} | {"hada_t1", "hada_t2"}), _loha),
    (
        frozenset({f"lokr_w{n}{side}" for n in (1, 2) for side in ("", "_a", "_b")} | {"lokr_t1", "lokr_t2"}),
        _lokr,
    ),
    (frozenset({"diff"}), _full),
)
"""The parts of each form, and what reads them."""
