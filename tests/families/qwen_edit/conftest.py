"""A repository with the export of a tiny checkpoint. pytest's cache keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import exported


@pytest.fixture(scope="session")
def qwen_edit_repository(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m exporters qwen-edit` makes of a tiny checkpoint of the plus models in an empty repository."""
    from tests.families.qwen_edit import tiny  # which imports torch and diffusers

    made = tmp_path_factory.mktemp("qwen_edit") / "checkpoint"
    tiny.write_checkpoint(made, plus=True)
    return exported(pytestconfig, made, "qwen-edit", "--checkpoint", ".")
