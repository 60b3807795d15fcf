"""Weighted and long prompts against a reference that goes word by word through transformers' own classes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from torch.nn import functional

from darkroom.errors import InvalidInput
from darkroom.pipelines.sd15.pipeline import Components
from darkroom.prompts.clip import chunk, encode_prompts
from darkroom.prompts.weights import parse_weights
from tests import tiny_sd15

LONG = "a photo of " + ", ".join(f"a cat on a blue background and a pizza number {n}" for n in range(12))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    return tiny_sd15.make_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def components(pipeline: StableDiffusionPipeline) -> Components:
    return tiny_sd15.make_components(pipeline)


def _encode(components: Components, *texts: str) -> NDArray[np.float32]:
    encoded = asyncio.run(encode_prompts(texts, components.tokenizer, components.checkpoint, components.text_encoder))
    return np.asarray(encoded)


def _reference(
    pipeline: StableDiffusionPipeline, words: list[tuple[str, float]], chunks: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings without weights, and the weights, one row per token, from lists and transformers alone."""
    tokenizer = pipeline.tokenizer
    tokens = [
        (token, weight) for word, weight in words for token in tokenizer(word, add_special_tokens=False).input_ids
    ]
    states, weights = [], []
    for number in range(chunks):
        part = tokens[75 * number : 75 * (number + 1)]
        padding = [(tokenizer.pad_token_id, 1.0)] * (75 - len(part))
        row = [(tokenizer.bos_token_id, 1.0), *part, (tokenizer.eos_token_id, 1.0), *padding]
        with torch.no_grad():
            states.append(pipeline.text_encoder(torch.tensor([[token for token, _ in row]])).last_hidden_state[0])
        weights += [weight for _, weight in row]
    return torch.cat(states).numpy(), np.array(weights, np.float32)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a (cat)", [("a ", 1.0), ("cat", 1.1)]),
        ("a [cat]", [("a ", 1.0), ("cat", 1 / 1.1)]),
        ("a (cat:1.3) here", [("a ", 1.0), ("cat", 1.3), (" here", 1.0)]),
        ("a (cat:2.) (dog:.5)", [("a ", 1.0), ("cat", 2.0), (" ", 1.0), ("dog", 0.5)]),
        ("((cat))", [("cat", 1.1 * 1.1)]),
        ("(a (cat:1.5) b:0.5)", [("a ", 0.5), ("cat", 0.75), (" b", 0.5)]),
        (r"a \(cat\)", [("a (cat)", 1.0)]),
        (r"a \\ b", [("a \\ b", 1.0)]),
        ("ratio 16:9", [("ratio 16:9", 1.0)]),
        ("at 5:30) and [x", [("at 5:30) and ", 1.0), ("x", 1 / 1.1)]),
        ("(unclosed", [("unclosed", 1.1)]),
        ("a) b]", [("a) b]", 1.0)]),
        ("(a: 2 )", [("a", 2.0)]),
        ("(x:.5)", [("x", 0.5)]),
        ("", []),
        ("()", []),
    ],
)
def test_notation(text: str, pieces: list[tuple[str, float]]) -> None:
    found = parse_weights(text)
    assert [words for words, _ in found] == [words for words, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


@pytest.mark.parametrize("text", ["(cat:11)", "(cat:-1)", "(" * 30 + "cat" + ")" * 30])
def test_a_weight_out_of_range_is_named(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"a weight must be from 0 to 10; got .* for 'cat'"):
        parse_weights(text)
    with pytest.raises(InvalidInput, match=r"^negative_prompt: a weight must be") as raised:
        parse_weights(text, "negative_prompt")
    assert raised.value.param == "negative_prompt"


@pytest.mark.parametrize("text", ["a cat", "", "A Cat, on a BLUE  background!", "猫 and 🐱"])
def test_plain_prompts_are_encoded_as_diffusers_does(
    pipeline: StableDiffusionPipeline, components: Components, text: str
) -> None:
    embeds, negative = pipeline.encode_prompt(text, "cpu", 1, True, negative_prompt="a dog")
    ours = _encode(components, "a dog", text)
    np.testing.assert_allclose(ours[0], negative[0].detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(ours[1], embeds[0].detach().numpy(), atol=1e-5)


def test_long_prompts_are_chunks_end_to_end(pipeline: StableDiffusionPipeline, components: Components) -> None:
    chunks = len(chunk(LONG, components.tokenizer, components.checkpoint).ids)
    assert chunks > 2
    ours = _encode(components, "", LONG)
    np.testing.assert_allclose(ours[1], _reference(pipeline, [(LONG, 1.0)], chunks)[0], atol=1e-5)
    np.testing.assert_allclose(ours[0], _reference(pipeline, [("", 1.0)], chunks)[0], atol=1e-5)


def test_every_token_of_a_long_prompt_counts(components: Components) -> None:
    assert (
        np.abs(_encode(components, LONG) - _encode(components, LONG.replace("number 11", "of number 9"))).max() > 1e-3
    )


@pytest.mark.parametrize("mean", [0.3, 0.0])
@pytest.mark.parametrize("long", [False, True])
def test_weights_scale_their_tokens(
    pipeline: StableDiffusionPipeline, components: Components, long: bool, mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean is restored where there is one, as with CLIP's embeddings, and not where it is a matter of rounding."""
    norm = pipeline.text_encoder.final_layer_norm
    monkeypatch.setattr(norm, "forward", lambda states: functional.layer_norm(states, states.shape[-1:]) + mean)
    before = LONG + ", " if long else "a photo of a "
    text = f"{before}(small cat:1.3) on a [blue] background"
    words = [(before, 1.0), ("small cat", 1.3), (" on a ", 1.0), ("blue", 1 / 1.1), (" background", 1.0)]
    chunks = len(chunk(text, components.tokenizer, components.checkpoint).ids)
    plain, weights = _reference(pipeline, words, chunks)
    expected = []
    for before_row, row in zip(np.split(plain, chunks), np.split(plain * weights[:, None], chunks), strict=True):
        expected.append(row * (before_row.mean() / row.mean()) if mean else row)
    np.testing.assert_allclose(_encode(components, text)[0], np.concatenate(expected), atol=1e-5)


def test_weights_of_one_chunk_leave_the_others_alone(components: Components) -> None:
    """As in the web UI, which does one chunk after the other."""
    text = f"(cat:1.4) {LONG}"
    weighted, plain = _encode(components, text)[0], _encode(components, text.replace("(cat:1.4)", "cat"))[0]
    assert np.abs(weighted[:77] - plain[:77]).max() > 1e-3
    assert np.array_equal(weighted[77:], plain[77:])


def test_tokens_limits_are_exact(components: Components) -> None:
    for count, chunks in ((74, 1), (75, 1), (76, 2), (150, 2), (151, 3)):
        assert len(chunk(" ".join(["cat"] * count), components.tokenizer, components.checkpoint).ids) == chunks
