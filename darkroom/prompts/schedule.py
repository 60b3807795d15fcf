"""Which texts the steps of a request read: its prompts with words that change from step to step.

What a prompt may not have is refused here: `AND`, and LoRA tags that nobody has taken out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from darkroom.diffusion.lora.tags import first_tag, without_tags
from darkroom.errors import InvalidInput
from darkroom.prompts.changes import count_changes, parse_changes, text_at
from darkroom.prompts.weights import parse_weights
from darkroom.request.fields import shown

MOST_CHANGES = 64
"""Maximum number of `[a:b:0.5]` and `[a|b]` in a prompt."""
MOST_TEXTS = 64
"""Maximum number of different texts that the steps of one request read."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class PromptSchedule:
    """The texts of a request, each of which is encoded once.

    :param texts: the different texts of the negative prompt, then those of the prompt.
    :param rows: for each step the indices of its texts: of the negative prompt and the prompt, or of the prompt alone.
    """

    texts: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]


def schedule_prompts(prompt: str, negative_prompt: str | None, steps: int) -> PromptSchedule:
    """The texts that every step of a request reads.

    :param negative_prompt: None where no step reads one.
    :param steps: calls of the networks that predict the noise, in all phases together; of none there is one row, too.
    :raises InvalidInput: a prompt has `AND`, a LoRA tag, a weight that is out of range, or too many changes.
    """
    given = {"prompt": prompt} if negative_prompt is None else {"negative_prompt": negative_prompt, "prompt": prompt}
    texts: list[str] = []
    columns: list[list[int]] = []
    for param, text in given.items():
        _refuse_tag(text, param)
        _refuse_and(text, param)
        found, column = _by_step(text, max(steps, 1), param)
        columns.append([len(texts) + row for row in column])
        texts += found
        for one in found:
            parse_weights(one, param)
    if len(texts) > MOST_TEXTS:
        raise InvalidInput(
            f"prompt: the steps of a request may read at most {MOST_TEXTS} different texts, "
            f"with those of the negative prompt; got {len(texts)}.",
            param="prompt",
        )
    return PromptSchedule(texts=tuple(texts), rows=tuple(zip(*columns, strict=True)))


def check_prompts(prompt: str, negative_prompt: str | None, steps: int) -> None:
    """Refuse prompts of which `schedule_prompts` can make nothing, apart from LoRA tags in the prompt.

    Those are taken out on the way to the pipeline. A negative prompt has none, in the web UI neither.

    :raises InvalidInput: as `schedule_prompts` does.
    """
    schedule_prompts(without_tags(prompt), negative_prompt or "", steps)


def _by_step(text: str, steps: int, param: str) -> tuple[list[str], list[int]]:
    """The different texts of a prompt, and which of them each step reads."""
    parts = parse_changes(text)
    changes = count_changes(parts)
    if not changes:
        return [text], [0] * steps
    if changes > MOST_CHANGES:
        raise InvalidInput(
            f"{param} must have at most {MOST_CHANGES} brackets such as [a:b:0.5] and [a|b]; got {changes}.",
            param=param,
        )
    places: dict[str, int] = {}
    column = [places.setdefault(text_at(parts, index, steps), len(places)) for index in range(steps)]
    return list(places), column


def _refuse_tag(text: str, param: str) -> None:
    if tag := first_tag(text):
        raise InvalidInput(
            f"{param}: the LoRA tag {shown(tag)} cannot be used with this model; take it out of the text.",
            param=param,
        )


def _refuse_and(text: str, param: str) -> None:
    """Refuse the word AND, which combines prompts in the web UI, unless the text around it is in capitals anyway:
    both neighbours among the words that have letters."""
    words = [word for word in _WORD.findall(text) if any(map(str.isalpha, word))]
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        if word == "AND" and not all(one.isupper() for one in (before, after) if one):
            raise InvalidInput(
                f"{param}: AND between prompts is not supported ({shown(f'{before} {word} {after}'.strip())}); "
                "write it in lower case to use the word.",
                param=param,
            )
