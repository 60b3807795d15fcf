"""Upscaling: from the words of a command line to pairs of input and output files, before anything is sent."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from .files import file_key, is_there
from .models import Format

# What the service reads; other files of a folder are passed over.
READABLE = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}

FORMATS: dict[str, Format] = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
SUFFIXES: dict[Format, str] = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}


@dataclass(frozen=True, kw_only=True)
class UpscaleJob:
    """One image to make. None stands for standard input, or standard output."""

    source: Path | None
    output: Path | None

    @property
    def done_before(self) -> bool:
        """Whether there is nothing left to do."""
        return is_there(self.output)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The images to make, and the format that all of them get."""

    jobs: tuple[UpscaleJob, ...]
    format: Format


@dataclass(frozen=True, kw_only=True)
class _Found:
    """An input, and its path below the output folder, still with the input's own suffix."""

    source: Path
    relative: Path


def make_plan(words: Sequence[str], output: str | None, format: Format | None) -> Plan:
    """Read `INPUT... [OUTPUT]` (or `INPUT...` and an `output` of its own) as a plan.

    :raises click.UsageError: the words make no sense, or an output would replace an input or another output.
    """
    inputs, output = _split(words, output)
    if len(inputs) == 1 and not _is_many(inputs[0]):
        plan = _plan_one(inputs[0], output, format)
    else:
        plan = _plan_many(inputs, output, format)
    _refuse_clashes(plan.jobs)
    return plan


def _split(words: Sequence[str], output: str | None) -> tuple[list[str], str | None]:
    """Without -o, the last word is the output, as in `cp`; of three and more words only if it is a folder."""
    inputs = list(words)
    if output is None and len(inputs) >= 2:
        if _has_wildcard(inputs[-1]):
            raise click.UsageError(f"{inputs[-1]!r} cannot be the output: give the output with -o.")
        if len(inputs) > 2 and not (inputs[-1].endswith("/") or Path(inputs[-1]).is_dir()):
            raise click.UsageError("Several inputs need a folder to write into: give it with -o.")
        output = inputs.pop()
    if len(inputs) > 1 and "-" in inputs:
        raise click.UsageError("Standard input ('-') can only be the one and only input.")
    return inputs, output


def _has_wildcard(word: str) -> bool:
    return any(sign in word for sign in "*?[") and not Path(word).exists()


def _is_many(word: str) -> bool:
    return _has_wildcard(word) or Path(word).is_dir()


def _plan_one(word: str, output: str | None, format: Format | None) -> Plan:
    source = None if word == "-" else Path(word)
    stem = source.stem if source else "stdin"
    if output == "-" or (output is None and source is None):
        return Plan(jobs=(UpscaleJob(source=source, output=None),), format=format or "png")
    if output is None:
        target = Path(word).with_name(stem + "-upscaled" + SUFFIXES[format or "png"])
    elif names_folder(output):
        target = Path(output) / (stem + SUFFIXES[format or "png"])
    else:
        target = Path(output)
    return Plan(jobs=(UpscaleJob(source=source, output=target),), format=format_of(target, format))


def names_folder(word: str) -> bool:
    """Whether an output is meant as a folder, which need not be there yet."""
    return word.endswith("/") or Path(word).is_dir() or not Path(word).suffix


def format_of(target: Path, format: Format | None) -> Format:
    """The format that an output's name says, which must be the one that is asked for, if one is.

    :raises click.UsageError: it is another one, or no format at all.
    """
    by_name = FORMATS.get(target.suffix.lower())
    if by_name is None:
        raise click.UsageError(f"{str(target)!r}: an output ends in {', '.join(FORMATS)}.")
    if format is not None and format != by_name:
        raise click.UsageError(f"{str(target)!r} is the name of a {by_name} file, and --format says {format}.")
    return by_name


def _plan_many(inputs: Sequence[str], output: str | None, format: Format | None) -> Plan:
    if output is None or output == "-":
        raise click.UsageError("Several inputs need a folder to write into: give it with -o.")
    folder = Path(output)
    if not folder.is_dir() and (folder.exists() or folder.suffix.lower() in READABLE):
        raise click.UsageError(f"Several inputs need a folder to write into, and {output!r} is a file.")
    found = [item for word in inputs for item in _expand(word, folder)]
    jobs = _name_outputs(found, folder, SUFFIXES[format or "png"])
    return Plan(jobs=tuple(jobs), format=format or "png")


def _expand(word: str, output: Path) -> list[_Found]:
    """The images that a word stands for, sorted: a file, the files of a folder, or those a pattern matches."""
    if _has_wildcard(word):
        word = os.path.expanduser(word)  # noqa: PTH111 (a pattern is no path)
        parts = Path(word).parts
        first = next((i for i, part in enumerate(parts) if _has_wildcard(part)), len(parts))
        base = Path(*parts[:first])
        paths: Iterable[Path] = map(Path, glob.glob(word, recursive=True))  # noqa: PTH207 (Path.glob has no "**" before 3.13 that matches files)
    elif Path(word).is_dir():
        base = Path(word)
        paths = base.iterdir()
    else:
        return [_Found(source=Path(word), relative=Path(Path(word).name))]
    pictures = sorted(path for path in paths if path.suffix.lower() in READABLE and path.is_file())
    pictures = _without_results(pictures, base, output)
    if not pictures:
        raise click.UsageError(f"{word!r}: no images there ({', '.join(sorted(READABLE))}).")
    return [_Found(source=path, relative=path.relative_to(base)) for path in pictures]


def _without_results(pictures: list[Path], base: Path, output: Path) -> list[Path]:
    """Leave out what an earlier run wrote, which would be enlarged once more by each run."""
    base, output = base.resolve(), output.resolve()
    if base == output:
        raise click.UsageError(
            f"The images are in the output folder {str(output)!r} itself, where the results could not be distinguished "
            "from them: choose another one with -o."
        )
    if base not in output.parents:
        return pictures
    return [path for path in pictures if output not in path.resolve().parents]


def _name_outputs(found: Iterable[_Found], folder: Path, suffix: str) -> list[UpscaleJob]:
    """a.jpg becomes a.png. Where a.jpg and a.webp both would, they become a.jpg.png and a.webp.png."""
    unique = {(item.source.resolve(), item.relative): item for item in found}
    items = list(unique.values())
    count = Counter(file_key(item.relative.with_suffix(suffix)) for item in items)
    jobs = []
    for item in items:
        relative = item.relative.with_suffix(suffix)
        if count[file_key(relative)] > 1:
            relative = item.relative.with_name(item.relative.name + suffix)
        jobs.append(UpscaleJob(source=item.source, output=folder / relative))
    return jobs


def _refuse_clashes(jobs: Sequence[UpscaleJob]) -> None:
    sources = {job.source.resolve(): job.source for job in jobs if job.source}
    taken: dict[str, UpscaleJob] = {}
    for job in jobs:
        if job.output is None:
            continue
        overwritten = sources.get(job.output.resolve())
        if overwritten:
            raise click.UsageError(f"The output {str(job.output)!r} would replace the input {str(overwritten)!r}.")
        other = taken.setdefault(file_key(job.output), job)
        if other is not job:
            raise click.UsageError(
                f"{str(other.source)!r} and {str(job.source)!r} would both be written to {str(job.output)!r}: "
                "upscale them separately, each with its own -o."
            )
