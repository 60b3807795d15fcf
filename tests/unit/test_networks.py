"""Names of models: several checkpoints of one family stand side by side under labels."""

from __future__ import annotations

import pytest

from darkroom.serving.networks import ModelSpec, is_label, split_label


def spec(**more: str) -> ModelSpec:
    return ModelSpec(name="toy_unet", backend="onnxruntime", inputs=(), outputs=(), **more)  # type: ignore[arg-type]


def test_labelled_model_has_the_label_behind_its_name() -> None:
    assert spec().labelled("photos").name == "toy_unet.photos"
    assert split_label("toy_unet.photos") == ("toy_unet", "photos")
    assert split_label("toy_unet") == ("toy_unet", "")


def test_labelled_model_sends_its_canary_to_the_pipeline_of_its_label() -> None:
    assert spec(canary_model="toy").labelled("photos").canary_model == "toy.photos"
    assert spec().labelled("photos").canary_model == ""


def test_label_that_is_empty_changes_nothing() -> None:
    assert spec().labelled("") == spec()


@pytest.mark.parametrize("text", ["a", "photos-2", "x_1", "0"])
def test_label_is_accepted(text: str) -> None:
    assert is_label(text)


@pytest.mark.parametrize("text", ["", "A", "-a", "_a", "a.b", "a b", "a/b", "é", "a" * 41, "a\n"])
def test_label_is_refused(text: str) -> None:
    assert not is_label(text)
