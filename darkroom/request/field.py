"""A field of a request, written once: its type is an annotation, with everything else about it in a `Field`.

From these come the checks (`darkroom.request.request`), the inputs of the Triton model (`darkroom.request.tensors`),
the types that a REST endpoint takes (`darkroom.request.edge`), the OpenAPI schema and the client's help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from darkroom.errors import InvalidInput
from darkroom.request.fields import Bounds, between, choice, integer, number, shown

Limit = float | str | Callable[[Any], float] | None
"""A number, the name of an attribute of the family's settings, or a function of the settings. None means no limit."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """The properties of one field besides its type.

    :param help: one or two sentences for people.
    :param low, high: the smallest and the largest value of a number; both are allowed. Of several images: how many.
    :param also: numbers outside of the range that are allowed, and what they mean.
    :param multiple: a whole number has to be a multiple of it.
    :param longest: characters of a text.
    :param words: a text has to be one of these, in any case.
    :param other_words: further spellings of some of the words.
    :param convert: makes the field's value of a text; raises InvalidInput where it cannot.
    :param json: the text is JSON, and REST endpoints take what it says as well.
    :param texts: the JSON is a list of texts.
    :param may_be_empty: whether an empty text is a value; if not, an empty field of a form counts as absent.
    :param aliases: other names of the field.
    :param default: shown where the value that the class has as its default does not say it: the name of an attribute
        of the family's settings.
    :param from_checkpoint: the default depends on the checkpoint, so that the documentation shows none.
    :param dtype: of the Triton input, where it is another one than the type's usual one.
    :param input: whether the Triton model takes it.
    :param rest: whether REST endpoints accept it; False for fields that only callers of Triton use.
    :param rest_words: the words that REST endpoints take, where they take fewer.
    :param needed: a request without this image is refused where the image is read.
    :param max_pixels: of an image.
    :param called: the name of an image in REST errors, if it is not the field's name.
    :param schema: keywords for the OpenAPI schema.
    """

    help: str
    low: Limit = None
    high: Limit = None
    also: Mapping[int, str] = field(default_factory=dict)
    multiple: int = 1
    longest: Limit = None
    words: tuple[str, ...] | Callable[[], tuple[str, ...]] = ()
    other_words: Mapping[str, str] = field(default_factory=dict)
    convert: Callable[[str], str] | None = None
    json: bool = False
    texts: bool = False
    may_be_empty: bool = False
    aliases: tuple[str, ...] = ()
    default: str = ""
    from_checkpoint: bool = False
    dtype: str = ""
    input: bool = True
    rest: bool = True
    rest_words: tuple[str, ...] = ()
    needed: bool = False
    max_pixels: Limit = None
    called: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict)

    def allowed_words(self) -> tuple[str, ...]:
        """The words that a text may be; empty for any text."""
        return self.words() if callable(self.words) else self.words

    def bounds(self, limits: object) -> Bounds | None:
        """The smallest and the largest value of a number in this installation; None where there are none.

        :param limits: the family's settings.
        """
        low, high = resolved(self.low, limits), resolved(self.high, limits)
        return None if low is None or high is None else (low, high)


@dataclass(frozen=True, kw_only=True)
class Shorthand:
    """A field of REST endpoints that stands for others: `size` for width and height.

    :param kind: its type.
    :param read: returns values of the fields that it stands for (None = not given); raises InvalidInput.
    :param overrides: whether its values take precedence over the fields themselves; otherwise they have to agree.
    """

    help: str
    kind: type
    read: Callable[[Any], Mapping[str, Any]]
    overrides: bool = False
    default: Any = None
    schema: Mapping[str, Any] = field(default_factory=dict)


def resolved(limit: Limit, limits: object) -> Any:
    """Return the number of a limit in this installation."""
    if isinstance(limit, str):
        return getattr(limits, limit)
    return limit(limits) if callable(limit) else limit


def check(kind: type, about: Field, name: str, value: Any, limits: object) -> Any:
    """Check and convert one value.

    :param kind: str, int, float, bool, bytes, or tuple for several images.
    :raises InvalidInput: names the field, its range and what came.
    """
    if kind is bytes:
        return value if isinstance(value, bytes) else bytes(memoryview(value))
    if kind is tuple:
        return _images(about, name, value, limits)
    if kind is bool:
        return bool(value)
    bounds = about.bounds(limits)
    given = {name: value}
    if kind is int and bounds is not None:
        whole = integer(given, name, 0, bounds, also=about.also)
        if whole % about.multiple:
            raise InvalidInput(f"{name} must be a multiple of {about.multiple}; got {shown(whole)}.", param=name)
        return whole
    if kind is float and bounds is not None:
        return number(given, name, 0.0, bounds)
    return _text(about, name, value, limits)


def _images(about: Field, name: str, value: Any, limits: object) -> tuple[bytes, ...]:
    """Several images: any sequence of bytes, or an array of them as Triton gives it."""
    images = tuple(one if isinstance(one, bytes) else bytes(memoryview(one)) for one in value)
    bounds = about.bounds(limits)
    if bounds is not None and not bounds[0] <= len(images) <= bounds[1]:
        low, high = bounds
        raise InvalidInput(f"{name} must be {low} to {high} images; got {len(images)}.", param=name)
    return images


def _text(about: Field, name: str, value: Any, limits: object) -> str:
    if about.convert is not None:
        return about.convert(value)
    if words := about.allowed_words():
        return choice(name, value, words, other_names=about.other_words)
    text, longest = str(value), resolved(about.longest, limits)
    if longest is not None and len(text) > longest:
        raise InvalidInput(f"{name} must have at most {longest} characters; got {len(text)}.", param=name)
    return text


def out_of_range(name: str, bounds: Bounds, came: object, what: str) -> InvalidInput:
    """Return the error for a value that is no number.

    :param what: the expected kind: "a number".
    """
    message = between(name, *bounds, came).message.replace("must be", f"must be {what}", 1)
    return InvalidInput(message, param=name)
