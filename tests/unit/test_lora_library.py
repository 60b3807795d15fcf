"""The folder of LoRA files: names, uploads that clash, files that go meanwhile."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest

from darkroom.errors import Conflict, InvalidInput, NotFound, TooLarge
from proxy.loras.library import LoraLibrary
from proxy.surfaces.loras import content_of


@pytest.fixture
def library(tmp_path: Path) -> LoraLibrary:
    return LoraLibrary(tmp_path / "loras")


def add(library: LoraLibrary, name: str, data: bytes = b"a") -> str:
    return library.add(name, BytesIO(data)).name


def test_library_adds_finds_and_deletes(library: LoraLibrary, tmp_path: Path) -> None:
    assert library.files() == []
    assert add(library, "ink.safetensors") == "ink"
    assert add(library, "ink") == "ink", "the same file again"
    with pytest.raises(Conflict, match="another LoRA 'ink'"):
        add(library, "ink", b"b")
    assert library.delete("ink.safetensors").name == "ink"
    assert list((tmp_path / "loras").iterdir()) == []


def test_library_name_of_a_folder_may_be_left_out(library: LoraLibrary, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / "loras" / folder).mkdir(parents=True)
        (tmp_path / "loras" / folder / f"{folder}.safetensors").touch()
        (tmp_path / "loras" / folder / "both.safetensors").touch()
    assert library.find("one").name == "one/one"
    assert library.find("two/both").name == "two/both"
    with pytest.raises(InvalidInput, match="means several LoRAs: one/both, two/both"):
        library.find("both")
    with pytest.raises(NotFound, match="Similar names: two/both, one/both"):
        library.find("three/both")


def test_library_file_whose_name_ends_twice_is_not_another_one(library: LoraLibrary, tmp_path: Path) -> None:
    add(library, "x")
    (tmp_path / "loras" / "x.safetensors.safetensors").write_bytes(b"put there by hand")
    assert library.delete("x.safetensors").path.name == "x.safetensors.safetensors"
    assert library.find("x").path.read_bytes() == b"a"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "a:b", "<a>", "a\nb", "x" * 101, ".x", "x.safetensors.safetensors"]
)
def test_library_names_that_are_refused_leave_nothing(library: LoraLibrary, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="name must be 1 to 100 characters"):
        add(library, name)
    assert not (tmp_path / "loras").exists()


def test_uploaded_file_has_a_size() -> None:
    assert content_of(BytesIO(bytes(1 << 20)), max_mb=1) == bytes(1 << 20)
    with pytest.raises(TooLarge, match="LORA_MAX_MB = 1 MB"):
        content_of(BytesIO(bytes((1 << 20) + 1)), max_mb=1)
    with pytest.raises(InvalidInput, match="empty"):
        content_of(BytesIO(), max_mb=1)
