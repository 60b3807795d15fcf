"""The training of the demo goes on from the weights that are kept."""

from __future__ import annotations

from training.demo.qwen_edit.checkpoint import BEGUN, load
from training.demo.qwen_edit.stage import STAGE, VAE_STAGE


def test_the_weights_that_are_kept_can_be_read() -> None:
    assert list(load(BEGUN)) == [VAE_STAGE, STAGE]
