"""The same matrices give the same pack, whatever layout and form a file has them in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from darkroom.diffusion.lora.pack import LoraPack, Targets, combine
from darkroom.diffusion.lora.read import read
from tests.lora_files import LAYOUTS, Change, base, change, kohya, pack_file, peft

BASE = base()


def some_changes(seed: int, targets: Targets = BASE, most: int = 12) -> dict[str, list[Change]]:
    """Random changes of random modules of every component, with different ranks, with and without alpha."""
    rng = np.random.default_rng(seed)
    found = {}
    for component, modules in targets.components.items():
        chosen = rng.choice(len(modules), min(most, len(modules)), replace=False)
        found[component] = [
            change(
                modules[index],
                int(rng.integers(1 << 30)),
                rank=int(rng.integers(1, 6)),
                alpha=[None, 1.0, 0.5, 3.7][int(rng.integers(4))],
            )
            for index in chosen
        ]
    return found


def written(changes: Mapping[str, list[Change]], layout: str) -> dict[str, NDArray[Any]]:
    writer = LAYOUTS[layout]
    return {
        name: value
        for component, some in changes.items()
        for one in some
        for name, value in writer(component, one).items()
    }


def check(pack: LoraPack, changes: Mapping[str, list[Change]]) -> None:
    assert {c: set(modules) for c, modules in pack.layers.items()} == {
        c: {one.target.name for one in some} for c, some in changes.items()
    }
    for component, some in changes.items():
        for one in some:
            layer = pack.layers[component][one.target.name]
            assert layer.error == 0.0
            np.testing.assert_allclose(layer.delta(), one.delta, atol=1e-5)
    assert pack.applied == pack.total
    assert (pack.unused, pack.warnings) == ((), ())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", range(3))
def test_lora_layouts_give_the_same_pack(layout: str, seed: int) -> None:
    changes = some_changes(seed)
    if layout == "lycoris":  # its trainer wraps one network at a time
        changes = {"unet": changes["unet"]}
    check(read(pack_file(written(changes, layout)), BASE), changes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lora_layouts_name_every_module(layout: str) -> None:
    changes = {
        component: [change(target, index, rank=1) for index, target in enumerate(modules)]
        for component, modules in BASE.components.items()
    }
    if layout == "lycoris":
        changes.pop("text_encoder_2"), changes.pop("text_encoder")
    check(read(pack_file(written(changes, layout)), BASE), changes)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E5M2"])
def test_lora_types_give_the_same_pack(dtype: str) -> None:
    changes = {"unet": some_changes(5)["unet"]}
    rounded = {
        "unet": [
            Change(one.target, *(np.sign(matrix) for matrix in (one.down, one.up)), alpha=2.0)
            if dtype == "F8_E5M2"
            else one
            for one in changes["unet"]
        ]
    }
    tensors = written(rounded, "kohya")
    alphas = {name: value for name, value in tensors.items() if name.endswith(".alpha")}
    tensors |= {name: np.asarray(4) for name in alphas}  # whole numbers stay as they are
    fixed = {"unet": [Change(o.target, o.down, o.up, None if o.alpha is None else 4.0) for o in rounded["unet"]]}
    check(read(pack_file(tensors, dtype=dtype), BASE), fixed)


def test_lora_8_bits_of_the_other_kind() -> None:
    """All 256 codes, against the table of ml_dtypes."""
    import ml_dtypes

    from darkroom.diffusion.lora.tensors import _eight_bits

    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(_eight_bits("F8_E4M3"), codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32))
    np.testing.assert_array_equal(_eight_bits("F8_E5M2"), codes.view(ml_dtypes.float8_e5m2).astype(np.float32))


def test_lora_two_naming_styles_in_one_file() -> None:
    changes = some_changes(1)
    layouts = list(LAYOUTS)[:-1]
    tensors = {
        name: value
        for component, some in changes.items()
        for index, one in enumerate(some)
        for name, value in LAYOUTS[layouts[index % len(layouts)]](component, one).items()
    }
    check(read(pack_file(tensors), BASE), changes)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("lycoris", "bare")])
def test_lora_text_encoder_without_its_prefix(layout: str) -> None:
    """transformers 5 calls the modules of CLIPTextModel otherwise than every file does."""
    new = base(prefix="")
    old = {target.name.replace("text_model.", ""): target for target in BASE.components["text_encoder"]}
    changes = {"text_encoder": [change(target, 3) for target in old.values()]}
    pack = read(pack_file(written(changes, layout)), new)
    assert set(pack.layers["text_encoder"]) == set(old)


def test_lora_te1_is_the_first_text_encoder() -> None:
    """kohya's documentation has it the other way round, its code does not."""
    one = change(BASE.components["text_encoder"][0], 1)
    for prefix in ("lora_te1", "lora_te"):
        check(read(pack_file(kohya("text_encoder", one, prefix)), BASE), {"text_encoder": [one]})
    two = change(BASE.components["text_encoder_2"][0], 1)
    assert two.target.name == "text_projection"
    check(read(pack_file(kohya("text_encoder_2", two)), BASE), {"text_encoder_2": [two]})


def test_lora_convolutions_meet_linears_in_proj_in() -> None:
    """One file for both kinds of proj_in; the stored matrices have two or four dimensions."""
    as_conv, as_linear = base(proj="conv"), base(proj="linear")
    for stored, served in ((as_conv, as_linear), (as_linear, as_conv)):
        some = [change(target, 2) for target in stored.components["unet"] if ".proj_" in target.name]
        check(read(pack_file(written({"unet": some}, "kohya")), served), {"unet": some})


def test_lora_denoiser_of_another_name() -> None:
    targets = Targets(base="flow", components={"transformer": BASE.components["unet"]})
    some = some_changes(4)["unet"]
    for prefix in ("lora_unet", "lora_transformer"):
        tensors = {n: v for one in some for n, v in kohya("unet", one, prefix).items()}
        check(read(pack_file(tensors), targets), {"transformer": some})
    tensors = {n: v for one in some for n, v in peft("transformer", one).items()}
    check(read(pack_file(tensors), targets), {"transformer": some})


def test_lora_names_that_a_base_model_adds() -> None:
    one = change(BASE.components["unet"][5], 1)
    targets = Targets(base="small", components=BASE.components, aliases={"unet": {"blocks.7.weird": one.target.name}})
    file = pack_file({"blocks.7.weird.lora_A.weight": one.stored_down, "blocks.7.weird.lora_B.weight": one.stored_up})
    check(read(file, targets), {"unet": [one]})


def test_lora_alpha_in_the_metadata_of_diffusers() -> None:
    """PEFT's config in the metadata, for all modules and for some, with and without the root of rsLoRA."""
    import json

    some = [change(target, n, rank=4) for n, target in enumerate(BASE.components["unet"][:4])]
    config: dict[str, Any] = {"unet.r": 4, "unet.lora_alpha": 2, "unet.alpha_pattern": {some[1].target.name: 12}}
    tensors = {n: v for one in some for n, v in peft("unet", one).items()}
    for root, divisor in ((False, 4), (True, 2)):
        text = json.dumps({**config, "unet.use_rslora": root})
        pack = read(pack_file(tensors, {"lora_adapter_metadata": text}), BASE)
        for index, one in enumerate(some):
            delta = pack.layers["unet"][one.target.name].delta()
            np.testing.assert_allclose(delta, one.delta * (12 if index == 1 else 2) / divisor, atol=1e-5)


def test_lora_combined_has_all_ranks_with_their_own_weights() -> None:
    changes = [some_changes(seed) for seed in (1, 2, 3)]
    packs = [read(pack_file(written(some, "kohya")), BASE) for some in changes]
    combined = combine(packs)
    weights = (0.5, 0.0, -2.0)
    scales = combined.scales(weights)
    assert scales.shape == (combined.rank,) == (sum(pack.rank for pack in packs),)
    layers = combined.layers()
    modules = {(c, one.target.name) for some in changes for c, list_ in some.items() for one in list_}
    assert {(c, name) for c, found in layers.items() for name in found} == modules
    for component, name in modules:
        layer = layers[component][name]
        merged = sum(
            weight * pack.layers[component][name].delta()
            for weight, pack in zip(weights, packs, strict=True)
            if name in pack.layers.get(component, {})
        )
        np.testing.assert_allclose((layer.up * scales) @ layer.down, merged, atol=1e-5)
    assert not combine(packs).scales((0, 0, 0)).any()
    with pytest.raises(ValueError, match="3 weights"):
        combined.scales((1.0, 1.0))


def test_lora_pack_cannot_be_changed() -> None:
    pack = read(pack_file(written(some_changes(1), "kohya")), BASE)
    layer = next(iter(pack.layers["unet"].values()))
    with pytest.raises(ValueError, match="read-only"):
        layer.down[0, 0] = 1.0
    with pytest.raises(TypeError):
        pack.layers["unet"] = {}  # type: ignore[index]


def test_lora_is_read_the_same_again() -> None:
    """A, then B, then A."""
    first, second = (pack_file(written(some_changes(seed), "kohya")) for seed in (1, 2))
    packs = [read(file, BASE) for file in (first, second, first)]
    assert packs[0].digest == packs[2].digest != packs[1].digest
    for component, modules in packs[0].layers.items():
        for name, layer in modules.items():
            again = packs[2].layers[component][name]
            assert (layer.up.tobytes(), layer.down.tobytes()) == (again.up.tobytes(), again.down.tobytes())
