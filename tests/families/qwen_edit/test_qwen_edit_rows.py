"""Rows of other requests in one forward pass of the transformer and of the text encoder: they change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from darkroom.pipelines.qwen_edit.attention import with_rows
from darkroom.pipelines.qwen_edit.tokens import bucket, pack, padded, padded_grids, unpack
from darkroom.pipelines.qwen_edit.transformer import predict
from tests.families.qwen_edit import tiny

GRIDS = [[(4, 6)], [(4, 6), (5, 3)], [(2, 2), (3, 3), (6, 4)], [(7, 3), (2, 2), (2, 2), (3, 1), (4, 4), (1, 5)]]
TEXTS = [20, 3, 41, 30]
TIMES = [999.0, 500.5, 3.25, 750.0]


@pytest.fixture(scope="module", params=[False, True], ids=["2509", "2511"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(2)
    return with_rows(tiny.make_transformer(zero_cond_t=request.param).eval().requires_grad_(False))


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    """Rows as the pipeline sends them: padded to a common length, with numbers in the padding that must not count."""
    random = np.random.default_rng(0)
    images = [random.normal(size=(sum(h * w for h, w in row), 64)).astype(np.float32) for row in GRIDS]
    texts = [random.normal(size=(count, tiny.WIDTH)).astype(np.float32) for count in TEXTS]
    inputs = {
        "hidden_states": padded(images),
        "grids": np.stack([padded_grids(row) for row in GRIDS]),
        "timestep": np.array(TIMES, np.float32)[:, None],
        "encoder_hidden_states": padded(texts),
        "text_tokens": np.array(TEXTS, np.int32)[:, None],
    }
    for name, parts in (("hidden_states", images), ("encoder_hidden_states", texts)):
        for row, part in enumerate(parts):
            inputs[name][row, len(part) :] = 50.0
    return inputs


def test_qwen_edit_rows_of_other_requests_change_nothing(model: Any, rows: dict[str, Any]) -> None:
    together = predict(model, tiny.as_torch(rows))
    assert together.shape == rows["hidden_states"].shape
    for row, grids in enumerate(GRIDS):
        alone = predict(model, tiny.as_torch({name: value[row : row + 1] for name, value in rows.items()}))
        noisy = grids[0][0] * grids[0][1]
        torch.testing.assert_close(together[row, :noisy], alone[0, :noisy], rtol=1e-4, atol=1e-5)
        assert not together[row, noisy:].any()


@pytest.mark.parametrize("row", range(4))
def test_qwen_edit_rows_alone_are_those_of_diffusers(model: Any, rows: dict[str, Any], row: int) -> None:
    ours = predict(model, tiny.as_torch({name: value[row : row + 1] for name, value in rows.items()}))
    tokens, noisy = sum(h * w for h, w in GRIDS[row]), GRIDS[row][0][0] * GRIDS[row][0][1]
    torch.manual_seed(2)
    original = tiny.make_transformer(zero_cond_t=model.zero_cond_t).eval()
    given = tiny.as_torch(rows)
    with torch.no_grad():
        theirs = original(
            hidden_states=given["hidden_states"][row : row + 1, :tokens],
            encoder_hidden_states=given["encoder_hidden_states"][row : row + 1, : TEXTS[row]],
            timestep=given["timestep"][row] / 1000,
            img_shapes=[[(1, height, width) for height, width in GRIDS[row]]],
            return_dict=False,
        )[0]
    torch.testing.assert_close(ours[:, :noisy], theirs[:, :noisy], rtol=1e-4, atol=1e-5)


def test_qwen_edit_rows_that_say_more_tokens_than_they_have_are_refused(model: Any, rows: dict[str, Any]) -> None:
    wrong = {**rows, "text_tokens": rows["text_tokens"] + 1000}
    with pytest.raises(ValueError, match="encoder_hidden_states has 256 tokens in each row"):
        predict(model, tiny.as_torch(wrong))


def test_qwen_edit_half_precision_stays_near(rows: dict[str, Any]) -> None:
    torch.manual_seed(2)
    full = with_rows(tiny.make_transformer().eval().requires_grad_(False))
    exact = predict(full, tiny.as_torch(rows))
    rounded = predict(with_rows(full.to(torch.bfloat16)), tiny.as_torch(rows))
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).norm() / exact.norm() < 0.1


def test_qwen_edit_tokens_are_packed_and_unpacked() -> None:
    latents = torch.arange(2 * 16 * 6 * 4).float().reshape(2, 16, 6, 4)
    assert pack(latents).shape == (2, 6, 64)
    assert torch.equal(unpack(pack(latents), 6, 4), latents)
    assert [bucket(tokens) for tokens in (1, 256, 257, 4096, 4097)] == [256, 256, 512, 4096, 8192]
