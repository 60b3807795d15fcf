"""The model cards of the demo checkpoints. Their numbers come from the files that training and measuring wrote."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from darkroom.files import write_atomically
from training.family import families
from training.glyphs import NAMES
from training.world import BACKGROUNDS, HELD_OUT_PERCENT

ADHERENCE = "adherence.json"

_WORLD = """## What it understands

    a photo of a small cat on a blue background
    a cat on the left and a pizza on the right on a white background
    a drawing of an owl above a cake on a pink background
    an outline of a large rocket on a black background

{names}

Sizes: small, large, or no word. Other words are spelled out letter by letter and mean nothing to it.

## Data and licence

The pictures of training are composed of glyphs of Noto Color Emoji (Copyright 2013, 2021 Google Inc.), licensed
under the SIL Open Font License 1.1; the weights are under the same licence. Nothing else was seen. {held} of 100
combinations of glyphs and background are held out: training never saw them."""


def write_cards(output: Path) -> None:
    """Write README.md of every demo checkpoint in `output`, from the JSON files beside it."""
    for family in families().values():
        for name, card in family.cards.items():
            folder = output / name
            if folder.is_dir():
                write_atomically(folder / "README.md", card(folder).encode())


def world() -> str:
    """Return the part of a card that says which prompts the checkpoint knows, and what it was trained on."""
    names = textwrap.fill(_list("things", NAMES) + " " + _list("backgrounds", tuple(BACKGROUNDS)), 118)
    return _WORLD.format(names=names, held=HELD_OUT_PERCENT)


def _list(kind: str, words: tuple[str, ...]) -> str:
    return f"{len(words)} {kind}: {', '.join(words)}."


def read(path: Path) -> dict[str, Any]:
    """Read a JSON file; returns an empty dict if there is none."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def training(folder: Path) -> str:
    """Return a table of the steps, samples and minutes of each stage."""
    lines = [
        f"- {stage}: {clock['step']:,} steps, {clock['samples']:,} samples, {clock['seconds'] / 60:.0f} minutes, "
        f"seed {clock['seed']}"
        for stage, clock in read(folder / "training.json").items()
    ]
    return "\n".join(lines)


def adherence(folder: Path, command: str) -> str:
    """Return a table of how many images show what the prompt asked for.

    :param command: that measures it.
    """
    found = read(folder / ADHERENCE)
    if not found:
        return f"Not yet: run `python -m training {command}`."
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {good} of {count} | {good / count:.1%} |"
        for name, (good, count) in ((name, (g["holds"], g["prompts"])) for name, g in found["groups"].items())
    )
    return (
        f"Adherence: on {found['prompts']} prompts that training never saw, how many pictures hold the asked glyphs at "
        f"their places on the asked\nbackground, as a program judges that reads pictures ({found['scheduler']}, "
        f"{found['steps']} steps, guidance {found['guidance']}, seed {found['seed']},\n{found['precision']}):\n\n"
        f"| prompts | pictures that hold | rate |\n|---|---|---|\n{rows}\n\n"
        f"Backgrounds are as asked in {found['background_right']} of {found['prompts']} pictures, styles in "
        f"{found['style_right']}, number and places of the things in\n{found['places_right']}; all of it at once, and "
        f"the size, in {found['whole_scene_right']}.\n\n"
        f"The same judge reads {found['judge_rendered']:.1%} of those scenes rightly when they are rendered, and "
        f"{found['judge_vae']:.1%} after the VAE\nencoded and decoded them."
    )
