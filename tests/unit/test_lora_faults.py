"""LoRA files that are damaged, for another base model, or cannot be served: refused, or used with a note."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from darkroom.diffusion.lora import tensors
from darkroom.diffusion.lora.pack import Target, Targets
from darkroom.diffusion.lora.read import read
from darkroom.errors import InvalidInput, TooLarge
from tests.lora_files import Change, base, change, kohya, linear, pack_file, peft, raw_file, sgm, text_encoder, unet

BASE = base()
UNET = BASE.components["unet"]
ATTENTION = [target for target in UNET if ".attn" in target.name]
CONV = next(target for target in UNET if target.kernel == 1 and target.kind == "conv")
ONE = change(ATTENTION[0], 1, alpha=1.0)
GOOD = pack_file(kohya("unet", ONE))
MODULE = next(iter(kohya("unet", ONE))).partition(".")[0]


def refused(data: bytes, targets: Targets = BASE, **options: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(data, targets, **options)
    assert caught.value.param == "file"
    return caught.value.message


def entry(**changed: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "only 0 bytes"),
        (b"PK\x03\x04" + bytes(100), "files of torch|Files of torch"),
        (b"\x80\x02}q\x00" + bytes(100), "Files of torch"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "Files of torch"),
        (GOOD[:60], "cut short: its header"),
        (GOOD[:-1], "cut short: '.*' ends at byte"),
        (GOOD + b"x", "1 bytes after its last tensor"),
        (raw_file(b"{"), "no JSON"),
        (raw_file(b"{\xff}"), "no JSON"),
        (raw_file(b'{"a":' * 5000), "no JSON"),
        (raw_file({}), "no tensors"),
        (raw_file({"__metadata__": {"a": "b"}}), "no tensors"),
        (raw_file({"x": 5}, bytes(8)), "the entry of 'x'"),
        (raw_file(entry(dtype="F4"), bytes(8)), "type 'F4', which is not supported"),
        (raw_file(entry(dtype=[1]), bytes(8)), "not supported"),
        (raw_file(entry(shape=[-2]), bytes(8)), "no valid shape"),
        (raw_file(entry(shape=[2.0]), bytes(8)), "no valid shape"),
        (raw_file(entry(shape=None), bytes(8)), "no valid shape"),
        (raw_file(entry(shape=[3]), bytes(8)), "as many bytes"),
        (raw_file(entry(shape=[2**62, 4]), bytes(8)), "too large"),
        (raw_file(entry(shape=[0, 2**62], data_offsets=[0, 0])), "too large"),
        (raw_file(entry(shape=[2**63]), bytes(8)), "no valid shape"),
        (raw_file(entry(shape=[1] * 8 + [2]), bytes(8)), "no valid shape"),
        (raw_file({"x" * 1001: entry()["x"]}, bytes(8)), "1,001 characters; at most 1,000"),
        (raw_file(entry(data_offsets=[8, 0]), bytes(8)), "as many bytes"),
        (raw_file(entry(data_offsets=[0]), bytes(8)), "no valid shape or place"),
        (raw_file(entry(data_offsets=[4, 12]), bytes(12)), "begins at byte 4 and not at 0"),
        (raw_file({**entry(), "y": entry()["x"]}, bytes(8)), "'y' begins at byte 0 and not at 8"),
        (raw_file(b'{"x":1,"x":2}'), "names 'x' twice"),
    ],
)
def test_lora_that_is_no_safetensors_file(data: bytes, said: str) -> None:
    import re

    assert re.search(said, refused(data))


def test_lora_header_with_a_name_twice_among_many_is_found_at_once() -> None:
    """Counting each name among all would take minutes for this one."""
    names = ",".join(f'"{number}":1' for number in (*range(200_000), 199_999))
    assert "names '199999' twice" in refused(raw_file(f"{{{names}}}".encode()))


def test_lora_core_that_would_be_larger_than_its_module_is_not_multiplied() -> None:
    """The product of small factors can be of any size."""
    side = 15_000
    name = next(iter(kohya("unet", change(CONV, 1, alpha=1.0)))).partition(".")[0]
    bomb = {
        f"{name}.lora_down.weight": np.ones((1, CONV.in_features, 1, 1), np.float16),
        f"{name}.lora_mid.weight": np.ones((side, 1, 1, 1), np.float16),
        f"{name}.lora_up.weight": np.ones((CONV.out_features, 1, 1, 1), np.float16),
    }
    assert "core of the shape" in refused(pack_file(bomb))


@pytest.mark.parametrize(("down", "up"), [(1e38, 1e30), (1e5, 1.0), (1.0, 70_000.0)])
def test_lora_values_that_float16_cannot_hold_are_refused(down: float, up: float) -> None:
    one = Change(ATTENTION[0], np.full_like(ONE.down, down), np.full_like(ONE.up, up))
    assert "values above 65,504" in refused(pack_file(kohya("unet", one)))


def test_lora_header_that_is_too_large() -> None:
    with pytest.raises(TooLarge, match=r"at most 16,777,216 bytes; got 17,000,000"):
        read((17_000_000).to_bytes(8, "little") + b"{", BASE)


def test_lora_of_too_many_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "MAX_TENSORS", 2)
    with pytest.raises(TooLarge, match="at most 2 tensors; got 3"):
        read(GOOD, BASE)


def test_lora_cut_at_any_byte_is_refused() -> None:
    for length in range(0, len(GOOD), 7):
        refused(GOOD[:length])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_lora_values_that_are_not_finite_are_named(value: float, dtype: str) -> None:
    parts = {name: np.array(stored) for name, stored in kohya("unet", ONE).items()}
    parts[f"{MODULE}.lora_up.weight"][0, 0] = value
    message = refused(pack_file(parts, dtype=dtype))
    assert f"'{MODULE}.lora_up.weight' has 1 values of 32 that are NaN or infinite" in message


def test_lora_number_beyond_float32_is_named() -> None:
    parts = kohya("unet", ONE)
    parts[f"{MODULE}.lora_up.weight"] = parts[f"{MODULE}.lora_up.weight"].astype(np.float64) + 1e300
    assert "NaN or infinite" in refused(pack_file(parts))


def test_lora_alpha_of_any_shape_is_one_number() -> None:
    """0-d, one element, fractional, whole numbers of any type; two numbers are refused."""
    for alpha in (np.float32(0.3), np.array([0.3], np.float32), np.array([[0.3]], np.float16), np.array(3)):
        parts = {**kohya("unet", ONE), f"{MODULE}.alpha": np.asarray(alpha)}
        delta = read(pack_file(parts), BASE).layers["unet"][ONE.target.name].delta()
        expected = float(np.asarray(alpha).reshape(())) * ONE.delta / ONE.scale / 2
        np.testing.assert_allclose(delta, expected, rtol=1e-5, atol=1e-6)
    parts[f"{MODULE}.alpha"] = np.array([1.0, 2.0])
    assert "must be one number; got the shape [2]" in refused(pack_file(parts))


def test_lora_mixed_ranks_have_their_own_scales() -> None:
    """Without alpha the scale is 1 for each; with one alpha it is not that of the first layer."""
    for alpha in (None, 4.0):
        some = [change(target, rank, rank=rank, alpha=alpha) for rank, target in enumerate(ATTENTION[:6], 1)]
        pack = read(pack_file({n: v for one in some for n, v in kohya("unet", one).items()}), BASE)
        assert pack.rank == 6
        for one in some:
            np.testing.assert_allclose(pack.layers["unet"][one.target.name].delta(), one.delta, atol=1e-5)


def test_lora_key_that_is_not_known_does_not_fail_the_file() -> None:
    extra = {"lora_unet_some_new_thing.lora_down.weight": np.ones((2, 2)), "position_ids": np.arange(3)}
    pack = read(pack_file({**kohya("unet", ONE), **extra}), BASE)
    assert (pack.applied, pack.total, pack.unused) == (3, 5, tuple(extra))
    assert pack.warnings == (f"2 tensors name no module of small and are not applied: {', '.join(map(repr, extra))}.",)


def test_lora_that_applies_to_nothing_is_refused() -> None:
    assert "none of its 2 tensors changes small: 'a', 'b'" in refused(pack_file({"a": np.ones(2), "b": np.ones(2)}))


def test_lora_of_zeros_is_said_to_change_nothing() -> None:
    one = Change(ONE.target, ONE.down, np.zeros_like(ONE.up))
    assert read(pack_file(kohya("unet", one)), BASE).warnings == (
        "All matrices are zero, so that the file changes nothing.",
    )


def test_lora_for_another_base_model_is_named() -> None:
    """By its shapes, where the names are the same; by its names, where shapes would fit."""
    wide, deep = base("wide", cross=20), base("deep", levels=(8, 16, 24))
    some = [change(target, 1) for target in wide.components["unet"] if ".attn" in target.name]
    file = pack_file(
        {n: v for one in some for n, v in kohya("unet", one).items()}, {"ss_base_model_version": "wide_v2"}
    )
    message = refused(file, BASE, others=[BASE, wide, deep])
    assert "it is not for small. It looks like one for wide. The file says that it is for 'wide_v2'." in message
    assert "attn2.to_k has 12 inputs, 16 outputs." in message
    assert read(file, wide).applied == len(some) * 2
    message = refused(file, deep, others=[BASE, wide])
    assert "it is not for deep. It looks like one for wide." in message
    first = next(one for one in some if one.target.name.startswith("down_blocks.1"))
    message = refused(pack_file(kohya("unet", first)), deep, others=[wide])
    assert f"It has no modules of these names: '{next(iter(kohya('unet', first)))}', '" in message


def test_lora_whose_text_encoder_alone_fits_is_refused() -> None:
    """Two base models may share a text encoder; a file that changes the UNet as well is only for one of them."""
    other = Targets(base="other", components={**BASE.components, "unet": unet(levels=(8, 16, 24))})
    deep = [t for t in other.components["unet"] if t.name.startswith("down_blocks.2.attentions")]
    text = change(BASE.components["text_encoder"][0], 1)
    file = pack_file({**kohya("unet", change(deep[0], 1)), **kohya("text_encoder", text)})
    assert "not for small. It looks like one for other." in refused(file, BASE, others=[other])
    assert read(pack_file(kohya("text_encoder", text)), BASE).applied == 2


def test_lora_for_a_base_without_its_text_encoders_is_used_with_a_note() -> None:
    """The graph of a base model may take LoRAs in its UNet alone."""
    alone = Targets(base="small", components={"unet": UNET})
    text = kohya("text_encoder", change(BASE.components["text_encoder"][0], 1))
    pack = read(pack_file({**kohya("unet", ONE), **text}), alone)
    assert set(pack.layers) == {"unet"}
    assert (pack.applied, pack.unused) == (3, tuple(text))
    assert "2 tensors name no module of small" in pack.warnings[0]


def test_lora_of_the_base_does_not_go_into_a_refiner() -> None:
    """Its UNet has the same names and other widths."""
    refiner = Targets(
        base="refiner",
        components={"unet": unet(cross=14), "text_encoder_2": text_encoder(14, projection=True)},
    )
    keys = [t for t in ATTENTION if "attn2.to_k" in t.name]
    file = pack_file({n: v for t in (*keys, ATTENTION[0]) for n, v in kohya("unet", change(t, 1)).items()})
    assert "it is not for refiner. It looks like one for small." in refused(file, refiner, others=[BASE])


def test_lora_wrong_shape_is_named() -> None:
    some = [change(target, 1) for target in ATTENTION[:5]]
    parts = {n: v for one in some for n, v in kohya("unet", one).items()}
    parts[f"{MODULE}.lora_down.weight"] = np.ones((2, 17), np.float32)
    message = refused(pack_file(parts))
    assert (
        f"shapes are wrong. '{MODULE}.lora_down.weight' has the shape [2, 17], and {ONE.target.name} has 16" in message
    )
    parts[f"{MODULE}.lora_down.weight"] = np.ones((3, 16), np.float32)
    assert f"unet.{ONE.target.name} has factors of the ranks 2 and 3" in refused(pack_file(parts))
    parts[f"{MODULE}.lora_down.weight"] = np.ones((16,), np.float32)
    assert "has the shape [16]" in refused(pack_file(parts))
    parts[f"{MODULE}.lora_down.weight"] = np.ones((0, 16), np.float32)
    assert "has down of the shape [0, 16]" in refused(pack_file(parts))


def test_lora_with_half_of_a_layer_is_refused() -> None:
    parts = kohya("unet", ONE)
    del parts[f"{MODULE}.lora_up.weight"]
    assert f"unet.{ONE.target.name} lacks up" in refused(pack_file(parts))
    assert "has alpha and no matrices" in refused(pack_file({f"{MODULE}.alpha": np.ones(())}))


def test_lora_module_in_two_styles_is_refused() -> None:
    """It does not say whether one replaces the other, or both act."""
    parts = {**kohya("unet", ONE), **sgm("unet", ONE)}
    assert f"are both down of {ONE.target.name}" in refused(pack_file(parts))
    adapters = {**peft("unet", ONE, adapter=".one"), **peft("unet", ONE, adapter=".two")}
    assert f"are both down of {ONE.target.name}" in refused(pack_file(adapters))


@pytest.mark.parametrize("writer", [kohya, sgm])
def test_lora_dora_on_some_layers_is_refused_and_named(writer: Any) -> None:
    """Under any names: without its scale such a layer would be a wrong plain LoRA."""
    plain, scaled = change(ATTENTION[0], 1), change(ATTENTION[1], 2)
    module = next(iter(writer("unet", scaled))).partition(".")[0]
    parts = {**writer("unet", plain), **writer("unet", scaled), f"{module}.dora_scale": np.ones((16, 1))}
    assert (
        f"1 layers cannot be served, because DoRA needs the norms of the base model's weights: '{module}.dora_scale'"
        in refused(pack_file(parts))
    )


@pytest.mark.parametrize(
    "end", ["lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default"]
)
def test_lora_dora_of_peft_is_refused(end: str) -> None:
    parts = {**peft("unet", ONE), f"unet.{ONE.target.name}.{end}": np.ones(16)}
    assert "DoRA needs" in refused(pack_file(parts))


@pytest.mark.parametrize(
    "end", ["oft_blocks", "oft_diag", "oft_R.default.weight", "rescale", "a1.weight", "set_weight"]
)
def test_lora_of_another_kind_is_refused_and_named(end: str) -> None:
    for parts in (
        {f"{MODULE}.{end}": np.ones((2, 4, 4))},
        {f"{MODULE}.{end}": np.ones((2, 4, 4)), **kohya("unet", ONE)},
    ):
        assert f"they are not low-rank changes (OFT, GLoRA or the like): '{MODULE}.{end}'" in refused(pack_file(parts))


def test_lora_on_modules_that_are_not_served_is_refused_and_named() -> None:
    """The graph takes matrices for linear modules only; leaving the convolutions out would change the images."""
    fixed = [
        Target(
            name=t.name,
            in_features=t.in_features,
            out_features=t.out_features,
            kernel=t.kernel,
            kind=t.kind,
            servable=t.kernel == 1,
        )
        for t in UNET
    ]
    conv = next(target for target in UNET if target.kernel == 3)
    targets = Targets(base="small", components={"unet": fixed})
    file = pack_file({**kohya("unet", ONE), **kohya("unet", change(conv, 1))})
    assert f"1 layers cannot be served, because LoRAs cannot change them here: unet.{conv.name}" in refused(
        file, targets
    )


def test_lora_biases_norms_and_embeddings_are_left_out_with_a_note() -> None:
    """No low-rank matrix can say them. They are named, unless they change nothing."""
    extra = {
        f"{MODULE}.diff_b": np.ones(16),
        "lora_unet_down_blocks_1_resnets_0_norm1.w_norm": np.ones(16),
        "lora_unet_down_blocks_1_resnets_0_norm1.b_norm": np.zeros(16),
        f"{MODULE}.lora_B.bias": np.zeros(16),
        "bundle_emb.<token>.string_to_param.*": np.ones((2, 16)),
    }
    pack = read(pack_file({**kohya("unet", ONE), **extra}), BASE)
    assert (pack.applied, pack.total, pack.unused) == (3, 8, tuple(extra))
    assert pack.warnings == (
        f"1 changes of biases are not applied: '{MODULE}.diff_b'.",
        "1 changes of norms are not applied: 'lora_unet_down_blocks_1_resnets_0_norm1.w_norm'.",
        "1 embeddings of new tokens are not applied: 'bundle_emb.<token>.string_to_param.*'.",
    )
    assert "none of its 1 tensors changes small" in refused(pack_file({f"{MODULE}.diff_b": np.ones(16)}))


def test_lora_name_without_a_component_in_two_text_encoders_is_not_guessed() -> None:
    both = Targets(base="two", components={"text_encoder": [linear("q", 4, 4)], "text_encoder_2": [linear("q", 4, 4)]})
    file = pack_file({"q.lora_A.weight": np.ones((1, 4)), "q.lora_B.weight": np.ones((4, 1))})
    assert "none of its 2 tensors changes two" in refused(file, both)
    only = Targets(base="one", components={"text_encoder": both.components["text_encoder"]})
    assert read(file, only).applied == 2


def test_lora_metadata() -> None:
    metadata = {
        "ss_output_name": "ink\n  drawing",
        "ss_base_model_version": "small_v1",
        "modelspec.trigger_phrase": "inkstyle, by  ink ,",
        "ss_tag_frequency": json.dumps({"10_ink": {"a dog": 3, "cat": 5, "": 9}, "5_more": {"a dog": 4, "x": "?"}}),
        "ss_network_dim": "32",
        "ss_network_alpha": "16.0",
    }
    found = read(pack_file(kohya("unet", ONE), metadata), BASE).metadata
    assert (found.title, found.base_model, found.rank, found.alpha) == ("ink drawing", "small_v1", 32.0, 16.0)
    assert found.trigger_words == ("inkstyle", "by ink")
    assert found.tags == ("a dog", "cat")


@pytest.mark.parametrize(
    "metadata",
    [
        {"ss_tag_frequency": "{", "ss_network_dim": "None", "ss_network_alpha": "nan", "lora_adapter_metadata": "[]"},
        {
            "ss_tag_frequency": '{"a": [1]}',
            "lora_adapter_metadata": '{"unet.lora_alpha": "x", "unet.alpha_pattern": 3}',
        },
        {"ss_tag_frequency": "[" * 100_000},
    ],
)
def test_lora_metadata_that_cannot_be_read_is_absent(metadata: dict[str, str]) -> None:
    pack = read(pack_file(kohya("unet", ONE), metadata), BASE)
    assert (pack.metadata.tags, pack.metadata.rank, pack.metadata.alpha) == ((), None, None)


def test_lora_metadata_of_other_types_is_left_out() -> None:
    header = {"__metadata__": {"name": 5, "ss_output_name": "mine"}, "x": entry()["x"]}
    assert tensors.open_tensors(raw_file(header, bytes(8))).metadata == {"ss_output_name": "mine"}


def test_lora_reader_imports_no_torch() -> None:
    """The proxy reads files, and never loads torch."""
    import subprocess
    import sys

    code = "import sys, darkroom.diffusion.lora.read as _; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
