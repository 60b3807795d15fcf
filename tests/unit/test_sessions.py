"""Sessions as folders: numbers, images with prompts, LoRA files, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from darkroom.errors import Conflict, InvalidInput, NotFound
from proxy.sessions.store import SessionStore


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


def files(store: SessionStore, folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts
    )


def test_sessions_are_numbered_from_one(store: SessionStore, tmp_path: Path) -> None:
    assert [store.create(), store.create()] == [1, 2]
    (tmp_path / "sessions" / "session_7").mkdir()
    (tmp_path / "sessions" / "session_mine").mkdir()
    assert store.create() == 8
    assert [one.session_id for one in store.summaries()] == ["1", "2", "7", "8", "mine"]


def test_session_numbers_of_deleted_sessions_are_not_given_again(store: SessionStore) -> None:
    assert [store.create(), store.create()] == [1, 2]
    store.delete("2")
    store.delete("1")
    assert store.create() == 3


def test_sessions_of_several_processes_get_different_numbers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: SessionStore(tmp_path / "sessions").create(), range(40)))
    assert sorted(made) == list(range(1, 41))


def test_session_image_and_prompt_have_the_layout_of_the_old_service(store: SessionStore, tmp_path: Path) -> None:
    session = str(store.create())
    assert [store.add_image(session, b"one", "ein Apfel"), store.add_image(session, b"two", "蘋果")] == [0, 1]
    folder = tmp_path / "sessions" / "session_1"
    assert files(store, folder) == ["0/0.png", "0/0.txt", "1/1.png", "1/1.txt"]
    assert (folder / "1" / "1.txt").read_text() == "蘋果"
    assert (folder / "1" / "1.png").read_bytes() == b"two"


def test_session_images_added_at_once_get_folders_of_their_own(store: SessionStore) -> None:
    session = str(store.create())
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: store.add_image(session, b"x", str(n)), range(30)))
    assert sorted(made) == list(range(30))
    assert store.summaries()[0].image_groups == 30


def test_session_examples_are_images_with_a_text_of_their_name(store: SessionStore, tmp_path: Path) -> None:
    session = str(store.create())
    folder = tmp_path / "sessions" / "session_1"
    for name in ("photos/a.jpg", "photos/a.txt", "photos/b.webp", "more/c.PNG", "more/c.txt", "d.png", "d.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    found = [str(one.image.relative_to(folder)) for one in store.examples(session)]
    assert found == ["more/c.PNG", "photos/a.jpg"]


def test_session_loras_are_numbered_and_the_newest_is_read(store: SessionStore, tmp_path: Path) -> None:
    session = str(store.create())
    with pytest.raises(NotFound, match="Requested LoRA not found"):
        store.read_lora(session)
    assert [store.add_lora(session, b"1"), store.add_lora(session, b"2")] == [
        "lora_1.safetensors",
        "lora_2.safetensors",
    ]
    folder = tmp_path / "sessions" / "session_1"
    for name in ("lora_1.safetensors", "lora_2.safetensors"):
        os.utime(folder / name, ns=(1, 1))
    assert store.read_lora(session) == ("lora_2.safetensors", b"2")
    assert store.read_lora(session, 1) == ("lora_1.safetensors", b"1")
    with pytest.raises(NotFound, match="Requested LoRA not found"):
        store.read_lora(session, 3)
    assert store.add_lora(session, b"mine", "my style (v2).safetensors") == "my style (v2).safetensors"
    assert store.read_lora(session) == ("my style (v2).safetensors", b"mine")
    assert store.summaries()[0].latest_lora == "my style (v2).safetensors"
    assert store.add_lora(session, b"3") == "lora_3.safetensors"


def test_session_lora_of_a_taken_name_has_to_be_the_same(store: SessionStore) -> None:
    session = str(store.create())
    store.add_lora(session, b"1", "mine.safetensors")
    assert store.add_lora(session, b"1", "mine.safetensors") == "mine.safetensors"
    with pytest.raises(Conflict, match=r"another file named mine\.safetensors"):
        store.add_lora(session, b"2", "mine.safetensors")
    assert store.read_lora(session)[1] == b"1"


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "a/b.safetensors",
        "x.pt",
        ".hidden.safetensors",
        "",
        "x.safetensors\0",
        "a" * 130 + ".safetensors",
    ],
)
def test_session_lora_with_a_bad_name_is_not_written(store: SessionStore, tmp_path: Path, name: str) -> None:
    session = str(store.create())
    with pytest.raises(InvalidInput, match="filename must be a plain name"):
        store.add_lora(session, b"1", name)
    assert files(store, tmp_path) == []


CALLS: list[Callable[[SessionStore, str], object]] = [
    lambda store, session: store.require(session),
    lambda store, session: store.examples(session),
    lambda store, session: store.add_image(session, b"", ""),
    lambda store, session: store.add_lora(session, b""),
    lambda store, session: store.read_lora(session),
    lambda store, session: store.delete(session),
]


@pytest.mark.parametrize("session", ["2", "", "../session_1", "1/..", "é", "x" * 65, "1\n"])
@pytest.mark.parametrize("call", CALLS)
def test_session_that_is_not_there(
    store: SessionStore, tmp_path: Path, call: Callable[[SessionStore, str], object], session: str
) -> None:
    store.create()
    with pytest.raises(NotFound, match="There is no session"):
        call(store, session)
    assert files(store, tmp_path) == []


def test_session_is_deleted_with_everything_in_it(store: SessionStore, tmp_path: Path) -> None:
    session = str(store.create())
    store.add_image(session, b"x", "y")
    store.add_lora(session, b"z")
    store.delete(session)
    assert files(store, tmp_path) == []
    assert store.summaries() == []
