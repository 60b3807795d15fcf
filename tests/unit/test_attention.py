"""Kernels for attention: the first that works is used, each that fails is one warning, and masks are kept."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from darkroom.diffusion.attention import CHOSEN_BY_TORCH, KERNELS, Attention
from darkroom.diffusion.attention_settings import KERNEL_NAMES, AttentionOrder

PLACE: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32, "head": 16}


def states() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 3, 24, 16, generator=generator) for _ in range(3)]


MASK = torch.arange(24)[None, None, None] < torch.tensor([24, 9])[:, None, None, None]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_attention_kernels_are_those_that_settings_name() -> None:
    assert set(KERNELS) == set(KERNEL_NAMES)


def test_attention_of_a_cpu_needs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    found = Attention.probed((), **PLACE)
    assert (found.plain, found.masked) == ("flash", "flash")
    assert not warnings(caplog)


def test_attention_kernels_that_fail_are_one_warning_each(caplog: pytest.LogCaptureFixture) -> None:
    found = Attention.probed(("flash_attn", "cudnn", "efficient", "math", "flash"), **PLACE)
    assert (found.plain, found.masked) == ("math", "math")
    lines = warnings(caplog)
    assert [line.split()[3] for line in lines] == ["flash_attn", "cudnn", "efficient"]
    assert "No module named 'flash_attn'" in lines[0]


def test_attention_ends_with_math_whatever_is_named(caplog: pytest.LogCaptureFixture) -> None:
    found = Attention.probed(("cudnn",), **PLACE)
    assert (found.plain, found.masked) == ("math", "math")
    assert len(warnings(caplog)) == 1


def test_attention_of_a_package_is_used_where_it_works_and_not_for_masks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The package is not installed here: in its place stands one of the same layout that computes with torch."""
    package = ModuleType("flash_attn")

    def function(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        given = [part.transpose(1, 2) for part in (query, key, value)]
        return torch.nn.functional.scaled_dot_product_attention(*given).transpose(1, 2)

    package.flash_attn_func = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    found = Attention.probed(("flash_attn", "math"), **PLACE)
    assert (found.plain, found.masked) == ("flash_attn", "math")
    assert not warnings(caplog)
    torch.testing.assert_close(found(*states(), None), CHOSEN_BY_TORCH(*states(), None))


def test_attention_with_wrong_numbers_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    package = ModuleType("sageattention")
    package.sageattn = lambda query, key, value, tensor_layout: value * float("nan")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sageattention", package)
    assert Attention.probed(("sage", "math"), **PLACE).plain == "math"
    assert "its numbers are wrong" in warnings(caplog)[0]


@pytest.mark.parametrize("name", ["flash", "math"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["plain", "masked"])
def test_attention_kernels_compute_the_same(name: str, mask: Tensor | None) -> None:
    found = Attention(plain=name, masked=name)
    torch.testing.assert_close(found(*states(), mask), CHOSEN_BY_TORCH(*states(), mask), rtol=1e-4, atol=1e-5)


def test_attention_that_cannot_do_a_shape_is_done_by_math() -> None:
    found = Attention(plain="cudnn", masked="cudnn")
    torch.testing.assert_close(found(*states(), MASK), CHOSEN_BY_TORCH(*states(), MASK), rtol=1e-4, atol=1e-5)


def test_attention_says_its_kernels() -> None:
    gauge = Attention(plain="flash", masked="efficient").gauge()
    assert gauge.labels == {"plain": "flash", "masked": "efficient"}


@pytest.mark.parametrize(("text", "names"), [("flash, math", ("flash", "math")), ("", ()), ("sage,", ("sage",))])
def test_attention_order_is_names_with_commas(text: str, names: tuple[str, ...]) -> None:
    assert TypeAdapter(AttentionOrder).validate_python(text) == names


@pytest.mark.parametrize(("text", "why"), [("flash,xformers", "got 'xformers'"), ("math,math", "'math' twice")])
def test_attention_order_of_unknown_kernels_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        TypeAdapter(AttentionOrder).validate_python(text)
