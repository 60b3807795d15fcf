"""The command `darkroom` against a real loopback server: files, folders, resuming, failing, being stopped."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from darkroom_client.cli_upscale import UpscaleRun, carry_out
from darkroom_client.files import write_whole
from darkroom_client.models import UpscaleOptions
from darkroom_client.plan import Plan, UpscaleJob

from benchmarks.processes import free_port
from tests.clients import darkroom
from tests.unit.loopback import HEALTHY, Answer, Loopback, Received, failure, loopback, upscaler

DARKROOM = [sys.executable, "-m", "darkroom_client"]


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback(upscaler) as running:
        yield running


def write(folder: Path, **contents: str) -> None:
    """Write files; the names have _ for their dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("_", ".")).write_text(content)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def test_one_file(server: Loopback, here: Path) -> None:
    write(here, in_jpg="cat")
    options = ("--model", "x4plus", "--scale", "2.5", "--tile", "64", "--tile-pad", "8", "--quality", "80")
    result = darkroom(server.url, "upscale", "in.jpg", "sub/out.webp", *options)
    assert result.exit_code == 0, result.output
    assert (here / "sub/out.webp").read_text() == "large cat"
    assert server.posts()[0].fields() == {
        "model": "x4plus",
        "scale": "2.5",
        "tile": "64",
        "tile_pad": "8",
        "format": "webp",
        "quality": "80",
    }
    assert result.stdout == ""
    assert result.stderr.startswith("in.jpg -> sub/out.webp (x4plus, x4, ")
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["in.jpg"], "in-upscaled.png"),
        (["in.jpg", "--format", "jpeg"], "in-upscaled.jpg"),
        (["in.jpg", "out"], "out/in.png"),
        (["in.jpg", "there"], "there/in.png"),
        (["in.jpg", "-o", "out.JPG"], "out.JPG"),
        (["in.jpg", "-o", "new.folder/"], "new.folder/in.png"),
    ],
)
def test_where_one_file_goes(server: Loopback, here: Path, words: list[str], output: str) -> None:
    write(here, in_jpg="cat")
    (here / "there").mkdir()
    result = darkroom(server.url, "upscale", *words)
    assert result.exit_code == 0, result.output
    assert tree(here) == {"in.jpg": "cat", output: "large cat"}


def test_a_folder_with_one_bad_file(server: Loopback, here: Path) -> None:
    write(here / "photos", a_jpg="a", b_png="bad", c_webp="c", notes_txt="no image")
    write(here / "photos/sub", d_jpg="not asked for")
    result = darkroom(server.url, "upscale", "photos", "-o", "out")
    assert result.exit_code == 1
    assert tree(here / "out") == {"a.png": "large a", "c.png": "large c"}
    assert "photos/b.png: failed: file: not an image." in result.stderr
    assert "2 done, 1 failed" in result.stderr


def test_a_missing_file_does_not_lose_the_others(server: Loopback, here: Path) -> None:
    write(here, a_jpg="a")
    result = darkroom(server.url, "upscale", "a.jpg", "missing.jpg", "-o", "out")
    assert result.exit_code == 1
    assert tree(here / "out") == {"a.png": "large a"}
    assert "missing.jpg: failed: No such file or directory" in result.stderr


def test_a_second_run_goes_on_where_the_first_ended(server: Loopback, here: Path) -> None:
    write(here / "photos", a_jpg="a", b_jpg="b")
    write(here / "out", a_png="from an earlier run", b_png="")
    first = darkroom(server.url, "upscale", "photos/", "out")
    assert first.exit_code == 0
    assert [post.file() for post in server.posts()] == [b"b"]
    assert tree(here / "out") == {"a.png": "from an earlier run", "b.png": "large b"}
    assert "photos/a.jpg: skipped, out/a.png is there" in first.stderr
    assert "1 done, 1 skipped" in first.stderr
    again = darkroom(server.url, "upscale", "photos/", "out", "--overwrite")
    assert again.exit_code == 0
    assert tree(here / "out") == {"a.png": "large a", "b.png": "large b"}


def test_with_everything_done_no_service_is_needed(here: Path) -> None:
    write(here, a_jpg="a", out_png="large a")
    assert darkroom(f"http://127.0.0.1:{free_port()}", "upscale", "a.jpg", "out.png").exit_code == 0


def test_patterns_keep_the_folders_below_their_fixed_part(server: Loopback, here: Path) -> None:
    write(here / "photos", a_jpg="a")
    write(here / "photos/x/y", b_jpg="b", c_png="c")
    assert darkroom(server.url, "upscale", "photos/**/*.jpg", "-o", "photos/out").exit_code == 0
    assert tree(here / "photos/out") == {"a.png": "large a", "x/y/b.png": "large b"}
    # The results lie below the pattern's folder now, and are no inputs of the next run all the same.
    assert darkroom(server.url, "upscale", "photos/**", "-o", "photos/out").exit_code == 0
    assert tree(here / "photos/out") == {"a.png": "large a", "x/y/b.png": "large b", "x/y/c.png": "large c"}


def test_inputs_of_the_same_stem_keep_their_suffix(server: Loopback, here: Path) -> None:
    write(here, a_jpg="jpg", a_webp="webp", b_jpg="b")
    assert darkroom(server.url, "upscale", "a.jpg", "a.webp", "b.jpg", "a.jpg", "-o", "out").exit_code == 0
    assert tree(here / "out") == {"a.jpg.png": "large jpg", "a.webp.png": "large webp", "b.png": "large b"}
    assert len(server.posts()) == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["a.png", "a.png"], "would replace the input"),
        (["a.png", "b.jpg", "-o", "."], "would replace the input 'a.png'"),
        (["x", "-o", "x"], "in the output folder"),
        (["x/*.jpg", "-o", "x"], "in the output folder"),
        (["x/c.jpg", "y/c.jpg", "-o", "out"], "would both be written to 'out/c.jpg.png'"),
        (["x/c.jpg", "y/C.JPG", "-o", "out"], "would both be written"),
        (["a.png", "b.jpg", "c.jpg"], "give it with -o"),
        (["x"], "give it with -o"),
        (["x", "-"], "give it with -o"),
        (["x", "-o", "out.png"], "is a file"),
        (["x", "a.png"], "is a file"),
        (["a.png", "*.jpg"], "cannot be the output"),
        (["a.png", "-", "-o", "out"], "Standard input"),
        (["a.png", "out.tiff"], "an output ends in .png"),
        (["a.png", "out.jpg", "--format", "png"], "is the name of a jpeg file"),
        (["empty", "-o", "out"], "no images there"),
        (["*.gif", "-o", "out"], "no images there"),
        (["a.png", "out.png", "--scale", "9"], "--scale"),
        ([], "Missing argument"),
    ],
)
def test_commands_that_make_no_sense_send_nothing(server: Loopback, here: Path, words: list[str], reason: str) -> None:
    write(here, a_png="a", b_jpg="b")
    write(here / "x", c_jpg="c")
    write(here / "y", c_jpg="c", C_JPG="c")
    (here / "empty").mkdir()
    before = tree(here)
    result = darkroom(server.url, "upscale", *words)
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())
    assert (server.received, tree(here)) == ([], before)


def test_an_input_that_is_a_link_to_the_output_is_not_replaced(server: Loopback, here: Path) -> None:
    write(here, a_png="a")
    (here / "link.png").symlink_to("a.png")
    assert darkroom(server.url, "upscale", "link.png", "a.png", "--overwrite").exit_code == 2
    assert (here / "a.png").read_text() == "a"


def test_a_pipe(server: Loopback, here: Path) -> None:
    write(here, in_jpg="cat")
    for words in (["-"], ["-", "-"]):
        result = darkroom(server.url, "upscale", *words, stdin=b"\xffcat")
        assert (result.exit_code, result.stdout_bytes) == (0, b"large \xffcat")
    assert darkroom(server.url, "upscale", "in.jpg", "-").stdout_bytes == b"large cat"
    assert darkroom(server.url, "upscale", "-", "out.png", stdin=b"dog").exit_code == 0
    assert tree(here) == {"in.jpg": "cat", "out.png": "large dog"}


def test_several_files_at_a_time(server: Loopback, here: Path) -> None:
    together = threading.Barrier(3)

    def wait_for_the_others(request: Received) -> Answer:
        if request.method == "POST":
            together.wait(20)
        return upscaler(request)

    server.respond = wait_for_the_others
    write(here / "photos", a_jpg="a", b_jpg="b", c_jpg="c")
    assert darkroom(server.url, "upscale", "photos", "out", "--jobs", "3").exit_code == 0
    assert len(tree(here / "out")) == 3


def test_without_a_service_the_command_fails_at_once(here: Path) -> None:
    write(here / "photos", a_jpg="a", b_jpg="b")
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    result = darkroom(url, "upscale", "photos", "out")
    assert time.monotonic() - started < 5
    assert result.exit_code == 1
    assert f"No Darkroom service answers at {url}" in result.stderr
    assert not (here / "out").exists()


def test_when_the_service_goes_away_the_rest_is_not_tried(
    server: Loopback, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def once(request: Received) -> Answer:
        away = len(server.posts()) > 1
        return failure(503, "not_ready", "The service is shutting down.") if away else upscaler(request)

    server.respond = once
    write(here, **{f"{name}_jpg": name for name in "abcd"})
    jobs = tuple(UpscaleJob(source=here / f"{name}.jpg", output=here / f"out/{name}.png") for name in "abcd")
    plan, options = Plan(jobs=jobs, format="png"), UpscaleOptions()
    run = UpscaleRun(plan=plan, options=options, url=server.url, jobs=1, overwrite=False, timeout=20, retries=0)
    assert carry_out(run) == 1
    assert len(server.posts()) == 2
    said = capsys.readouterr().err
    assert "1 done, 1 failed, 2 not finished" in said
    assert "give the same command again" in said


def test_a_model_that_is_not_there_is_tried_once(server: Loopback, here: Path) -> None:
    unknown = failure(422, "invalid_input", "model: one of x4plus; got 'x5'.", "model")
    server.respond = lambda request: HEALTHY if request.method == "GET" else unknown
    write(here / "photos", **{f"{name}_jpg": name for name in "abcd"})
    result = darkroom(server.url, "upscale", "photos", "out", "--model", "x5", "--jobs", "1")
    assert result.exit_code == 1
    assert len(server.posts()) == 1
    assert "0 done, 1 failed, 3 not finished" in result.stderr


def test_a_server_error_names_the_request(server: Loopback, here: Path) -> None:
    broken = failure(500, "internal_error", "The service failed.", **{"X-Request-ID": "request-9"})
    server.respond = lambda request: HEALTHY if request.method == "GET" else broken
    write(here, a_jpg="a")
    result = darkroom(server.url, "upscale", "a.jpg", "out.png")
    assert result.exit_code == 1
    assert "The service failed. (request request-9)" in result.stderr


def test_file_names_cannot_write_control_codes(server: Loopback, here: Path) -> None:
    (here / "a\x1b[31m[red]\udcff.jpg").write_text("a")
    result = darkroom(server.url, "upscale", ".", "out")
    assert result.exit_code == 0
    assert "a\N{REPLACEMENT CHARACTER}[31m[red]\N{REPLACEMENT CHARACTER}.jpg -> " in result.stderr


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "folder.png", b"large")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.png"]
    write_whole(tmp_path / "new/a.png", b"large")
    assert (tmp_path / "new/a.png").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _at_most_100_bytes_a_file() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails with an error, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def test_a_full_disk_leaves_nothing_half_written(server: Loopback, here: Path) -> None:
    write(here / "photos", a_jpg="a" * 200, b_jpg="b", c_jpg="c" * 200)
    write(here / "out", a_png="the old one")
    command = [*DARKROOM, "--url", server.url, "upscale", "photos", "out", "--overwrite"]
    # Python would cut its own bytecode files to 100 bytes, too, and every later start would trip over them.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=_at_most_100_bytes_a_file, check=False, env=env
    )
    assert result.returncode == 1
    assert "photos/a.jpg: failed: File too large" in result.stderr
    assert tree(here / "out") == {"a.png": "the old one", "b.png": "large b"}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
