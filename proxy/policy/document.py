"""Reads the file of a policy. What is wrong with it is said with its line and its field."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator
from typing_extensions import Self

from darkroom.request.fields import shown
from proxy.policy.conditions import Condition, ConditionError
from proxy.policy.rules import CheckAction, Limited, Policy, Rule, Text
from proxy.policy.words import WordList, Words, pattern_of

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Sentence = Annotated[str, StringConstraints(min_length=1, max_length=1000, strip_whitespace=True)]
Place = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong.

    :param file: the name of the file, without its folder.
    :param field: such as `rules[2].limit.steps`; empty for the whole file.
    """

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}"
        return f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}"


class PolicyError(Exception):
    """A policy cannot be used."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _ListModel(_Model):
    words: list[str] = []
    exceptions: list[str] = Field([], alias="except")
    files: list[str] = []


class _LimitModel(_Model):
    steps: int | None = Field(None, ge=1)
    num_images: int | None = Field(None, ge=1)
    pixels: int | None = Field(None, ge=64 * 64)
    scale: float | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"must name some of {', '.join(type(self).model_fields)}")
        return self


class _RuleModel(_Model):
    id: Name
    words: list[str] = []
    texts: list[Literal["prompt", "negative_prompt"]] = Field(["prompt"], alias="in", min_length=1)
    when: str | None = None
    allow: Literal[True] | None = None
    refuse: Sentence | None = None
    negative_prompt: Sentence | None = None
    limit: _LimitModel | None = None
    check_images: CheckAction | None = None

    @field_validator("words", "texts", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        changes = any(one is not None for one in (self.negative_prompt, self.limit, self.check_images))
        if (self.allow is not None) + (self.refuse is not None) + changes != 1:
            raise ValueError(
                "must have one action: allow, refuse, or negative_prompt, limit and check_images, alone or together"
            )
        return self


class _PolicyModel(_Model):
    version: Annotated[str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True)]
    words: dict[Name, _ListModel] = {}
    rules: list[_RuleModel]

    @field_validator("words", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: {"words": one} if isinstance(one, list) else one for name, one in value.items()}


class _Document:
    """The content of a YAML file and the line of each of its values.

    :raises PolicyError: it is no YAML, or uses what policies have no need of.
    """

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self._lines: dict[Place, int] = {(): 1}
        self._nodes: set[int] = set()
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            self._loader = loader
            self.content: Any = self._plain(node, ()) if node is not None else None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = " ".join(part for part in (error.context, error.problem) if part)
            raise PolicyError([Problem(file=file, line=mark.line + 1 if mark else 1, field="", message=what)]) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise PolicyError([Problem(file=file, line=1, field="", message=str(error) or "is no YAML")]) from None

    def problem(self, place: Place, message: str, lines: int = 0) -> Problem:
        """A problem of a value.

        :param lines: from the line of the value on.
        """
        known = next(place[:end] for end in range(len(place), -1, -1) if place[:end] in self._lines)
        names = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place if part != _VALUE]
        field = "".join(names).removeprefix(".")
        return Problem(file=self.file, line=self._lines[known] + lines, field=field, message=message)

    def is_list(self, *place: str | int) -> bool:
        """Whether there is a list at a place."""
        found = self.content
        for part in place:
            found = found[part] if isinstance(found, dict) and part in found else None
        return isinstance(found, list)

    def _plain(self, node: yaml.Node, place: Place) -> Any:
        self._lines[place] = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode) and id(node) in self._nodes:
            raise yaml.MarkedYAMLError(problem="aliases are not read here", problem_mark=node.start_mark)
        self._nodes.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(one, (*place, index)) for index, one in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self._loader.construct_object(node)
        found: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self._loader.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                problem = f"the name of a field must be text; got {key!r}: quote it"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            if key in found:
                raise yaml.MarkedYAMLError(problem=f"{key} is there twice", problem_mark=key_node.start_mark)
            own: Place = (*place, key)
            value: Place = (*own, _VALUE)
            found[key] = self._plain(value_node, own)
            self._lines[own] = key_node.start_mark.line + 1
            below = getattr(value_node, "style", None) in ("|", ">")  # the text begins in the next line
            self._lines[value] = value_node.start_mark.line + 1 + below
        return found


_VALUE = "\0value"
"""In the places of `_Document`: the line where the value begins, and not its name."""


def read_policy(path: Path) -> Policy:
    """Read and check a policy.

    :raises PolicyError: with all problems that are found.
    """
    document, data = _opened(path)
    try:
        model = _PolicyModel.model_validate(document.content)
    except ValidationError as error:
        raise PolicyError([_as_problem(document, one) for one in error.errors()]) from None
    hashed = hashlib.sha256(data)
    problems: list[Problem] = []
    lists = {name: _word_list(document, path, name, one, problems, hashed) for name, one in model.words.items()}
    rules = list(_rules(document, model, problems))
    if problems:
        raise PolicyError(problems)
    words = Words(lists)
    sizes = {name: len(one.words) for name, one in lists.items()}
    return Policy(version=model.version, digest=hashed.hexdigest(), words=words, lists=sizes, rules=tuple(rules))


def files_of(path: Path) -> list[Path]:
    """The files that a policy is read from, as far as they can be told; it reads the policy and never fails."""
    found = [path]
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        lists = content["words"].values()
        found += [path.parent / name for one in lists if isinstance(one, dict) for name in one.get("files", ())]
    except Exception:  # whatever is wrong, `read_policy` says it
        return found
    return found


def _opened(path: Path) -> tuple[_Document, bytes]:
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        why = error.strerror or "it cannot be read"
        raise PolicyError([Problem(file=path.name, line=1, field="", message=why)]) from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PolicyError([Problem(file=path.name, line=line, field="", message="is not UTF-8")]) from None
    return _Document(path.name, text), data


def _as_problem(document: _Document, error: Any) -> Problem:
    place: Place = tuple(error["loc"])
    if len(place) > 2 and place[0] == place[2] == "words" and document.is_list(*place[:2]):
        place = (*place[:2], *place[3:])  # a list in place of a list's fields
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return document.problem(place, "is missing")
    if error["type"] == "extra_forbidden":
        return document.problem(place, "is not known here")
    if error["type"] == "model_type":
        return document.problem(place, f"must have fields with names; got {shown(error['input'])}")
    if error["type"] == "value_error":
        return document.problem(place, message)
    return document.problem(place, f"{message[0].lower()}{message[1:]}; got {shown(error['input'])}")


def _word_list(
    document: _Document, path: Path, name: str, model: _ListModel, problems: list[Problem], hashed: Any
) -> WordList:
    """A list with the words of its files."""
    is_short = document.is_list("words", name)
    for field, words in (("words", model.words), ("except", model.exceptions)):
        for index, word in enumerate(words):
            place: Place = ("words", name, index) if is_short else ("words", name, field, index)
            problems += [document.problem(place, message) for message in _wrong(word)]
    found = list(model.words)
    for index, file in enumerate(model.files):
        try:
            data = (path.parent / file).read_bytes()
            hashed.update(b"\0" + data)
            lines = data.decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "is not UTF-8"
            problems.append(document.problem(("words", name, "files", index), f"{file}: {why}"))
            continue
        for number, line in enumerate(lines, 1):
            word = line.partition("#")[0].strip()
            wrong = _wrong(word) if word else []
            problems += [Problem(file=file, line=number, field=f"words.{name}", message=one) for one in wrong]
            found += [word] if word else []
    return WordList(words=found, exceptions=model.exceptions)


def _wrong(word: str) -> list[str]:
    """What is wrong with a word: one message, or none."""
    try:
        pattern_of(word)
    except ValueError as error:
        return [f"{error}; got {shown(word)}"]
    return []


def _rules(document: _Document, model: _PolicyModel, problems: list[Problem]) -> Iterator[Rule]:
    ids: set[str] = set()
    for index, one in enumerate(model.rules):
        place: Place = ("rules", index)
        if one.id in ids:
            problems.append(document.problem((*place, "id"), f"{one.id} is there twice"))
        ids.add(one.id)
        for name in one.words:
            if name not in model.words:
                known = ", ".join(model.words) or "none"
                message = f"must be a list of words, of {known}; got {shown(name)}"
                problems.append(document.problem((*place, "words"), message))
        texts: tuple[Text, ...] = tuple(one.texts)
        yield Rule(
            id=one.id,
            words=tuple(one.words),
            texts=texts,
            condition=_condition(document, (*place, "when"), one.when, model.words, problems),
            allow=bool(one.allow),
            refuse=one.refuse,
            negative_prompt=one.negative_prompt,
            limits=_limits(one.limit),
            check_images=one.check_images,
        )


def _condition(
    document: _Document, place: Place, text: str | None, lists: Iterable[str], problems: list[Problem]
) -> Condition | None:
    if text is None:
        return None
    try:
        return Condition(text, lists)
    except ConditionError as error:
        problems.append(document.problem((*place, _VALUE), str(error), error.line - 1))
        return None


def _limits(model: _LimitModel | None) -> Mapping[Limited, float]:
    return {} if model is None else model.model_dump(exclude_none=True)  # type: ignore[return-value]
