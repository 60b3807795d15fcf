"""Generation: from the prompts of a command line to the images to make and their files, before anything is sent."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from .files import file_key, is_there
from .models import Format
from .plan import SUFFIXES, format_of, names_folder

LONGEST_SLUG = 150  # bytes of UTF-8; file systems allow 255, and the seed and a suffix come behind

GridMode = Literal["none", "also", "only"]


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One image to make. The output None stands for standard output, or for a place in the grid only."""

    prompt: str
    seed: int
    output: Path | None

    @property
    def done_before(self) -> bool:
        """Whether there is nothing left to do."""
        return is_there(self.output)


@dataclass(frozen=True, kw_only=True)
class ShotPlan:
    """The images to make.

    :param format: of all of them, and of the grid.
    :param grid: whether all are put into one image as well, or only there.
    :param grid_output: the file of the grid; None for standard output, or no grid.
    :param columns: of the grid: one for each seed if there are several prompts with several seeds each.
    """

    shots: tuple[Shot, ...]
    format: Format
    grid: GridMode
    grid_output: Path | None
    columns: int


# Tells whether a file holds another image than the one wanted.
IsAnother = Callable[[Path, Shot], bool]


def make_plan(
    prompts: Sequence[str],
    *,
    seed: int,
    count: int,
    output: str | None,
    format: Format | None,
    grid: GridMode,
    is_another: IsAnother,
) -> ShotPlan:
    """Plan `count` images of each prompt, with seeds from `seed` on.

    :raises click.UsageError: the images do not fit the output.
    """
    shots = [Shot(prompt=prompt, seed=seed + k, output=None) for prompt in prompts for k in range(count)]
    columns = count if count > 1 and len(prompts) > 1 else math.ceil(math.sqrt(len(shots)))
    plan = ShotPlan(shots=tuple(shots), format=format or "png", grid=grid, grid_output=None, columns=columns)
    if output == "-":
        _refuse_several(plan, "standard output holds one")
        return plan
    if output is not None and not names_folder(output):
        _refuse_several(plan, f"{output!r} is one file")
        return _into_file(plan, Path(output), format_of(Path(output), format), is_another)
    folder = Path(output or ".")
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"{str(folder)!r} is a file without a suffix: give a folder with -o.")
    return _into_folder(plan, folder, is_another)


def _refuse_several(plan: ShotPlan, reason: str) -> None:
    if plan.grid == "also":
        raise click.UsageError(f"--grid needs a folder to write into, and {reason}; --grid-only writes the grid alone.")
    if plan.grid == "none" and len(plan.shots) > 1:
        count = len(plan.shots)
        raise click.UsageError(f"{count} images need a folder to write into (-o out/), and {reason}.")


def _into_file(plan: ShotPlan, path: Path, format: Format, is_another: IsAnother) -> ShotPlan:
    if plan.grid == "only":
        return ShotPlan(shots=plan.shots, format=format, grid="only", grid_output=path, columns=plan.columns)
    shot = Shot(prompt=plan.shots[0].prompt, seed=plan.shots[0].seed, output=path)
    if shot.done_before and is_another(path, shot):
        raise click.UsageError(f"{str(path)!r} is there, made with other settings (--overwrite replaces it).")
    return ShotPlan(shots=(shot,), format=format, grid="none", grid_output=None, columns=plan.columns)


def _into_folder(plan: ShotPlan, folder: Path, is_another: IsAnother) -> ShotPlan:
    suffix = SUFFIXES[plan.format]
    grid_output = folder / (_grid_stem(plan.shots) + suffix) if plan.grid != "none" else None
    shots = plan.shots
    if plan.grid != "only":
        taken: set[str] = set()
        shots = tuple(_named(shot, folder, suffix, taken, is_another) for shot in shots)
    return ShotPlan(shots=shots, format=plan.format, grid=plan.grid, grid_output=grid_output, columns=plan.columns)


def _named(shot: Shot, folder: Path, suffix: str, taken: set[str], is_another: IsAnother) -> Shot:
    """a-cat-42.png; where that holds another image, or will, a-cat-42-2.png and so on.

    The name depends on nothing but the folder and the command, so the same command finds its images again.
    """
    stem = f"{slug(shot.prompt)}-{shot.seed}"
    for number in itertools.count(1):
        path = folder / (f"{stem}-{number}{suffix}" if number > 1 else f"{stem}{suffix}")
        if file_key(path) not in taken and not (is_there(path) and is_another(path, shot)):
            break
    taken.add(file_key(path))
    return Shot(prompt=shot.prompt, seed=shot.seed, output=path)


def _grid_stem(shots: Sequence[Shot]) -> str:
    others = len({shot.prompt for shot in shots}) - 1
    and_others = f"-and-{others}-more" if others else ""
    return f"{slug(shots[0].prompt)}{and_others}-{shots[0].seed}-grid"


def slug(prompt: str) -> str:
    """A prompt as part of a file name: letters and digits of any script, in lower case, with - between words.

    >>> slug("A cat, on a (blue:1.3) background!")
    'a-cat-on-a-blue-1-3-background'
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFC", prompt).lower())
    text = "-".join(words)
    if len(text.encode()) > LONGEST_SLUG:
        cut = text.encode()[:LONGEST_SLUG].decode("utf-8", "ignore")
        text = cut.rpartition("-")[0] or cut
    return text or "picture"


def split_into_requests(shots: Iterable[Shot], most: int) -> list[tuple[Shot, ...]]:
    """Shots of one prompt with consecutive seeds go into one request, at most `most` of them."""
    requests: list[tuple[Shot, ...]] = []
    for shot in shots:
        last = requests[-1] if requests else ()
        if last and last[-1].prompt == shot.prompt and last[-1].seed + 1 == shot.seed and len(last) < most:
            requests[-1] = (*last, shot)
        else:
            requests.append((shot,))
    return requests
