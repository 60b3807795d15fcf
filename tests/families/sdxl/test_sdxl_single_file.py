"""Stable Diffusion XL in one file, base and refiner: the same networks as those of the folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from darkroom.pipelines.sdxl import networks
from darkroom.pipelines.sdxl.checkpoint import SdxlCheckpointInfo
from exporters import manifest
from exporters.checkpoints.single_file.unpack import Choices, single_file_origin
from exporters.errors import ExportError
from exporters.sdxl import command, single_file, weights
from tests.sd15_exports import export
from tests.single_files import SECOND, original_refiner_state, original_xl_state, write_single_file


@dataclass(frozen=True)
class Files:
    """Folders, and the same in one file each.

    :param repository: the export of the folders.
    """

    folders: Path
    repository: Path
    base: Path
    refiner: Path

    def opened(self, cache: Path) -> tuple[Path, Path]:
        """The folders of both files."""
        base = command.origin(str(self.base), Path("/"), cache, Choices(config=str(self.folders / "base")))
        refiner = single_file_origin(str(self.refiner), Path("/"), cache, (), single_file.REFINER)
        return base.root, refiner.root


@pytest.fixture(scope="module")
def files(sdxl_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The refiner lies in a folder with its configuration; the base does not."""
    folders, made = sdxl_repository.parent / "checkpoint", tmp_path_factory.mktemp("single")
    shutil.copytree(folders / "refiner", made / "refiner", ignore=shutil.ignore_patterns("*.safetensors"))
    return Files(
        folders=folders,
        repository=sdxl_repository,
        base=write_single_file(folders / "base", made / "photos-xl.safetensors", original_xl_state),
        refiner=write_single_file(folders / "refiner", made / "refiner" / "fine.safetensors", original_refiner_state),
    )


def test_sdxl_single_files_hold_the_same_networks(files: Files, tmp_path: Path) -> None:
    base, refiner = files.opened(tmp_path)
    ours, theirs = weights.read_checkpoint(base), weights.read_checkpoint(files.folders / "base")
    for part in weights.KINDS:
        same(weights.load(part, ours.parts[part]), weights.load(part, theirs.parts[part]))
    fine, other = (weights.read_refiner(one, theirs) for one in (refiner, files.folders / "refiner"))
    assert fine.scored is other.scored is True
    same(weights.load(weights.REFINER, fine.unet), weights.load(weights.REFINER, other.unet))


def same(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], value) for name, value in other.items())


@pytest.mark.heavy
def test_sdxl_single_files_are_exported_as_their_folders(files: Files, tmp_path: Path) -> None:
    places = ("--output", tmp_path / "models", "--cache", tmp_path / "cache")
    options = ("--config", files.folders / "base", "--refiner", files.refiner, "--as", "one")
    answer = export("export", files.base, *options, *places)
    assert "photos-xl is a Stable Diffusion XL checkpoint (a single file): exporting as sdxl.one" in answer.output
    for spec in (*networks.TEXT_ENCODERS, networks.UNET, networks.VAE_DECODER, networks.REFINER_UNET):
        ours, theirs = tmp_path / "models" / f"{spec.name}.one" / "1", files.repository / spec.name / "1"
        assert (ours / "model.onnx").read_bytes() == (theirs / "model.onnx").read_bytes(), spec.name
    ours, theirs = tmp_path / "models" / "sdxl.one" / "1", files.repository / "sdxl" / "1"
    for name in ("tokenizer.json", "tokenizer_2.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    mine, other = SdxlCheckpointInfo.read(ours), SdxlCheckpointInfo.read(theirs)
    assert (mine.name, other.name) == ("photos-xl", "base")
    assert (mine.tokens, mine.latent_rgb, mine.side) == (other.tokens, other.latent_rgb, other.side)
    noted = manifest.read(ours)
    assert noted is not None
    assert noted.source == str(files.base)
    again = export("sdxl", "--checkpoint", files.base, "--as", "one", *places)
    assert again.output.count("up to date") == 7, again.output


def test_sdxl_fp16_file_has_the_weights_of_its_precision(files: Files, tmp_path: Path) -> None:
    file = write_single_file(files.folders / "base", tmp_path / "half.safetensors", original_xl_state, half=True)
    config = Choices(config=str(files.folders / "base"))
    root = command.origin(str(file), Path("/"), tmp_path / "cache", config).root
    kept = load_file(root / "text_encoder_2" / "model.safetensors")
    assert {value.dtype for value in kept.values()} == {torch.float16}
    exact = load_file(files.folders / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    unet = weights.load(weights.UNET, weights.read_checkpoint(root).parts[weights.UNET]).state_dict()
    assert all(torch.equal(unet[name], value.half().float()) for name, value in exact.items())


def without(start: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {name: value for name, value in state.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("first_stage_model."), r"photos.safetensors is no checkpoint of the .* XL kind: it has no VAE\."),
        (
            without(SECOND),
            r"photos.safetensors is no checkpoint of the .* kind: it has no second text encoder\.",
        ),
        (
            lambda state: {**state, "model.diffusion_model.label_emb.0.0.weight": torch.zeros(64, 30)},
            r"photos/unet: projection_class_embeddings_input_dim is 30, expected 68",
        ),
        (lambda state: {**state, f"{SECOND}ln_final.bias": torch.full((24,), torch.nan)}, r"ln_final.bias holds NaN"),
        (
            lambda state: {**state, f"{SECOND}token_embedding.weight": torch.zeros(715, 48)},
            r"hidden_size of its second text encoder is 48, and 24 for base\.",
        ),
    ],
)
def test_sdxl_unfit_single_files_are_one_sentence(
    files: Files, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: str
) -> None:
    file = tmp_path / "photos.safetensors"
    save_file(change(original_xl_state(files.folders / "base")), file)
    found = command.origin(str(file), Path("/"), tmp_path / "cache", Choices(config=str(files.folders / "base")))
    with pytest.raises(ExportError, match=words):
        weights.read_checkpoint(found.root)


def test_sdxl_base_and_refiner_in_each_others_place(files: Files, tmp_path: Path) -> None:
    refiner = command.origin(str(files.refiner), Path("/"), tmp_path)
    with pytest.raises(ExportError, match=r"fine.safetensors is no checkpoint of .*: it looks like a refiner of"):
        _ = refiner.root
    base = single_file_origin(str(files.base), Path("/"), tmp_path, (), single_file.REFINER)
    with pytest.raises(ExportError, match=r"photos-xl.safetensors is no refiner of .*: it looks like Stable Diff"):
        _ = base.root


def test_sdxl_refiner_of_other_widths_says_what_to_do(files: Files, tmp_path: Path) -> None:
    alone = Path(shutil.copy(files.refiner, tmp_path / "alone.safetensors"))
    found = single_file_origin(str(alone), Path("/"), tmp_path / "cache", (), single_file.REFINER)
    with pytest.raises(ExportError, match=r"block_out_channels of its UNet is \[16, 32\], .*, or move the file"):
        _ = found.root
