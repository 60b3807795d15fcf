"""Rules, and what they decide about a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from darkroom.request.init_image import strength_steps
from proxy.policy.conditions import Condition, Values
from proxy.policy.folding import folded
from proxy.policy.readings import readings
from proxy.policy.words import Words

Text = Literal["prompt", "negative_prompt"]
Limited = Literal["steps", "num_images", "pixels", "scale"]
LIMITS: Mapping[str, tuple[Limited, ...]] = {
    "generate": ("steps", "num_images", "pixels"),
    "edit": ("steps", "num_images", "pixels"),
    "upscale": ("scale",),
    "train": ("steps",),
}
"""What can be lowered, by the operation."""
GUIDED = ("generate", "edit")
"""Operations with a negative prompt."""
MAKING = ("generate", "edit")
"""Operations whose images can be checked."""
CheckAction = Literal["refuse", "blank"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What rules know of a request.

    :param prompts: all texts that a model reads; a training has several.
    :param surface: the kind of REST contract: native, openai or web_ui.
    :param width, height: of the result in pixels; 0 where they are not known.
    :param strength: the share of the steps that is done, of an image that is changed; 1 elsewhere.
    :param sample_steps: of a training, those that its sample images may have.
    :param scale: of an upscaler; 1 elsewhere.
    :param checks_images: whether the model has a safety checker.
    :param key_id: of the caller's key; empty where the service has no keys.
    """

    operation: str
    model: str = ""
    surface: str = "native"
    prompts: Sequence[str] = ()
    negative_prompts: Sequence[str] = ()
    width: int = 0
    height: int = 0
    steps: int = 0
    strength: float = 1.0
    sample_steps: Sequence[int] = ()
    num_images: int = 1
    scale: float = 1.0
    checks_images: bool = True
    key_id: str = ""
    key_name: str = ""
    role: str = "user"

    @property
    def pixels(self) -> int:
        """Of one result."""
        return self.width * self.height


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule. Without words and condition it acts on every request.

    :param words: names of lists, of which one has to have a word in one of `texts`.
    :param refuse: the message of a refusal; `allow` ends the judgement without one.
    :param negative_prompt: what is added there.
    :param limits: the largest values.
    :param check_images: what becomes of images that the safety checker flags; None: the rule asks for no check.
    """

    id: str
    words: tuple[str, ...] = ()
    texts: tuple[Text, ...] = ("prompt",)
    condition: Condition | None = None
    allow: bool = False
    refuse: str | None = None
    negative_prompt: str | None = None
    limits: Mapping[Limited, float] = field(default_factory=dict)
    check_images: CheckAction | None = None


@dataclass(frozen=True, kw_only=True)
class Addition:
    """What a rule adds to the negative prompt."""

    rule: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A value that a rule lowers; `name` is a field of `Limited`."""

    rule: str
    name: Limited
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """A rule that wants the images of a request checked."""

    rule: str
    action: CheckAction


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the rules say of a request.

    :param rules: the ids of all that acted, in order.
    :param refused: the message of the refusal, which the last one of them wrote; None if the request is allowed.
    :param check: of the images that are made: of several rules the first that refuses, else the first; None: no check.
    :param words: found in the prompts, by the names of their lists, and `negative_words` in the negative prompts.
    """

    rules: tuple[str, ...] = ()
    refused: str | None = None
    additions: tuple[Addition, ...] = ()
    cuts: tuple[Cut, ...] = ()
    check: Check | None = None
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    negative_words: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy that was read from a file.

    :param digest: SHA-256 of the file and of the word files that it names.
    """

    version: str
    digest: str
    words: Words
    lists: Mapping[str, int]
    rules: tuple[Rule, ...]

    def judge(self, facts: Facts) -> Decision:
        """Apply the rules in their order. The first that allows or refuses ends it; the others change the request and
        go on, and later conditions see the lowered values."""
        seen = _Seen(self.words, facts, self.rules)
        acted: list[str] = []
        additions: list[Addition] = []
        cuts: list[Cut] = []
        checks: list[Check] = []
        refused = None
        for rule in self.rules:
            if not seen.match(rule):
                continue
            new = seen.lower(rule)
            cuts += new
            adds = rule.negative_prompt is not None and facts.operation in GUIDED
            if adds:
                additions.append(Addition(rule=rule.id, text=str(rule.negative_prompt)))
            checks += (wanted := _checks(rule, facts))
            refused, ends = rule.refuse, rule.allow or rule.refuse is not None
            if new or adds or wanted or ends:
                acted.append(rule.id)
            if ends:
                break
        return Decision(
            rules=tuple(acted),
            refused=refused,
            additions=tuple(additions),
            cuts=tuple(cuts),
            check=next((one for one in checks if one.action == "refuse"), checks[0] if checks else None),
            words=seen.words("prompt"),
            negative_words=seen.words("negative_prompt"),
        )


class _Seen:
    """A request as the rules see it, with what those before have changed. Its texts are those of all numbers of steps
    that it may come to: fewer steps may read other words."""

    def __init__(self, words: Words, facts: Facts, rules: Sequence[Rule]) -> None:
        self._words, self._facts = words, facts
        most = [facts.steps, *(int(rule.limits["steps"]) for rule in rules if "steps" in rule.limits)]
        made = {strength_steps(min(facts.steps, one), facts.strength) for one in most}
        steps = facts.sample_steps or made
        given: dict[Text, Sequence[str]] = {"prompt": facts.prompts, "negative_prompt": facts.negative_prompts}
        self._texts = {name: _folds(texts, steps) for name, texts in given.items()}
        self._found: dict[Text, dict[str, list[str]]] = {}
        self._values: Values | None = None

    def words(self, text: Text) -> dict[str, list[str]]:
        """The words that are found in the prompts or in the negative prompts."""
        if text not in self._found:
            self._found[text] = self._words.find_folded(self._texts[text])
        return self._found[text]

    def match(self, rule: Rule) -> bool:
        """Whether a rule acts on the request."""
        if rule.words and not any(name in self.words(text) for text in rule.texts for name in rule.words):
            return False
        if rule.condition is None:
            return True
        self._values = self._values or Values(self._variables())
        # What cannot be decided is refused, and gets no privileges.
        return rule.condition.holds(self._values, otherwise=rule.refuse is not None)

    def lower(self, rule: Rule) -> list[Cut]:
        """Lower what is over the limits of a rule."""
        found: list[Cut] = []
        for name, most in rule.limits.items():
            before = getattr(self._facts, name)
            if name in LIMITS.get(self._facts.operation, ()) and before > most:
                found.append(Cut(rule=rule.id, name=name, before=before, after=most))
                self._facts, self._values = _lowered(self._facts, name, most), None
        return found

    def _variables(self) -> dict[str, Any]:
        """The variables of conditions; texts are folded, and all readings of them stand in lines of their own."""
        facts = self._facts
        return {
            "prompt": "\n".join(self._texts["prompt"]),
            "negative_prompt": "\n".join(self._texts["negative_prompt"]),
            "found": list(self.words("prompt")),
            "words": {name: self.words("prompt").get(name, []) for name in self._words.lists},
            "operation": facts.operation,
            "model": facts.model,
            "surface": facts.surface,
            "width": facts.width,
            "height": facts.height,
            "steps": facts.steps,
            "num_images": facts.num_images,
            "scale": facts.scale,
            "checks_images": facts.checks_images,
            "key_id": facts.key_id,
            "key_name": facts.key_name,
            "role": facts.role,
        }


def _checks(rule: Rule, facts: Facts) -> list[Check]:
    """The check that a rule wants of a request: one or none."""
    if rule.check_images is None or facts.operation not in MAKING:
        return []
    return [Check(rule=rule.id, action=rule.check_images)]


def _folds(texts: Sequence[str], steps: Iterable[int]) -> list[str]:
    """The different foldings of all readings of prompts."""
    return list(dict.fromkeys(fold for text in texts for one in readings(text, steps) for fold in folded(one)))


def _lowered(facts: Facts, name: Limited, most: float) -> Facts:
    if name == "scale":
        share = most / facts.scale
        return replace(facts, scale=most, width=int(facts.width * share), height=int(facts.height * share))
    if name == "pixels":
        width, height = fitted(facts.width, facts.height, int(most))
        return replace(facts, width=width, height=height)
    return replace(facts, steps=int(most)) if name == "steps" else replace(facts, num_images=int(most))


def fitted(width: int, height: int, pixels: int, multiple: int = 1) -> tuple[int, int]:
    """Return the largest size of at most `pixels` with about the same proportions.

    :param multiple: of which both sides are; at least that.
    """
    share = min(1.0, (pixels / (width * height)) ** 0.5)
    return tuple(max(multiple, int(side * share) // multiple * multiple) for side in (width, height))  # type: ignore[return-value]
