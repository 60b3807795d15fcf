"""Content negotiation by the `Accept` header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastapi import Request

_WEIGHT = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")
_LONGEST = 4000
_NAMED, _KIND, _ANYTHING = 3, 2, 1


class Accept:
    """The media ranges of one request. Without any, all media types are equal."""

    def __init__(self, header: str) -> None:
        self._wishes = [wish for part in header[:_LONGEST].lower().split(",") if (wish := _wish(part))]

    def weight(self, name: str) -> float:
        """Return the weight of a media type, 0 to 1; 0 means not acceptable."""
        return self._match(name)[1]

    def prefers(self, name: str, *others: str) -> bool:
        """Whether the media type is named, or matched by `type/*`, and no other one has a higher weight."""
        how, weight = self._match(name)
        return how >= _KIND and weight > 0 and all(self.weight(other) <= weight for other in others)

    def names(self, name: str) -> bool:
        """Whether the media type is named in full."""
        return self._match(name)[0] == _NAMED

    def best(self, offers: Sequence[str]) -> str:
        """Return the offer with the highest weight; of equal ones the one that is named more exactly, then the one
        named first, then the first offer. If none is acceptable, return the first: it may be useful all the same."""

        def rank(offer: str) -> tuple[float, int, int]:
            how, weight = self._match(offer)
            return weight, how, -self._place(offer)

        return max(offers, key=rank)

    def _match(self, name: str) -> tuple[int, float]:
        """Return how exactly a media type is named, and its weight: the most exact range counts."""
        if not self._wishes:
            return 0, 1.0
        kind = name.partition("/")[0]
        for how, wanted in ((_NAMED, name), (_KIND, f"{kind}/*"), (_ANYTHING, "*/*")):
            weights = [weight for one, weight in self._wishes if one == wanted]
            if weights:
                return how, max(weights)
        return 0, 0.0

    def _place(self, name: str) -> int:
        return next((at for at, (one, _) in enumerate(self._wishes) if one == name), len(self._wishes))


def accept_of(request: Request) -> Accept:
    """Parse the media ranges of a request."""
    return Accept(",".join(request.headers.getlist("accept")))


def _wish(part: str) -> tuple[str, float] | None:
    """Return a media range and its weight; None for an empty part. An invalid weight counts as 0."""
    name, *parameters = (piece.strip() for piece in part.split(";"))
    if not name:
        return None
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            value = value.strip()
            return name, float(value) if _WEIGHT.fullmatch(value) else 0.0
    return ("*/*" if name == "*" else name), 1.0
