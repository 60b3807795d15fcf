"""What networks say of themselves on Triton's metrics endpoint, which is in Prometheus' text format 0.0.4."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_LINE = re.compile(r"(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>.+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """A network that is divided over several devices.

    :param mode: "distributed" while its ranks work, "single" once they were given up for one device.
    :param ranks: that it was divided over.
    :param healthy: ranks that work.
    :param tp, ep: tensor parallel ranks in a group, and expert parallel groups.
    :param last_failure: why they were given up; None while they work.
    :param failed_at: when, as ISO 8601.
    """

    mode: Literal["distributed", "single"]
    ranks: int
    healthy: int
    tp: int
    ep: int
    last_failure: str | None
    failed_at: str | None


def providers_of(text: str) -> dict[str, str]:
    """The execution provider that each network runs on, by the model's name; where its instances, one for each device,
    run on several, all of them with commas between."""
    found: dict[str, set[str]] = {}
    for labels, _ in samples(text, "darkroom_network_provider"):
        found.setdefault(labels["model"], set()).add(labels["provider"])
    return {model: ", ".join(sorted(providers)) for model, providers in found.items()}


def successes_of(text: str) -> dict[str, int]:
    """How many requests each network has answered without an error, by the model's name. Of pipelines, which answer
    when they like, it says nothing: Triton counts their requests when they arrive."""
    found: dict[str, int] = {}
    for labels, count in samples(text, "nv_inference_request_success"):
        found[labels["model"]] = found.get(labels["model"], 0) + int(count)
    return found


def ranks_of(text: str) -> dict[str, Ranks]:
    """The networks that are divided over several devices, by the model's name."""
    failures = {
        labels["model"]: (labels["reason"], at) for labels, at in samples(text, "darkroom_network_ranks_failed")
    }
    found = {}
    for labels, healthy in samples(text, "darkroom_network_ranks"):
        tp, ep = int(labels["tp"]), int(labels.get("ep", 1))
        reason, at = failures.get(labels["model"], (None, 0.0))
        found[labels["model"]] = Ranks(
            mode="single" if reason else "distributed",
            ranks=tp * ep,
            healthy=int(healthy),
            tp=tp,
            ep=ep,
            last_failure=reason,
            failed_at=datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="seconds") if reason else None,
        )
    return found


def joined(texts: Mapping[str, str]) -> str:
    """Return the metrics of several Tritons as one text, where each sample has the label `triton`; of one as it is.

    :param texts: by what the label says. Empty texts, of Tritons that cannot be read, are left out.
    """
    if len(texts) == 1:
        return next(iter(texts.values()))
    families: dict[str, tuple[list[str], list[str]]] = {}
    for triton, text in texts.items():
        name, seen = "", set(families)
        for line in text.splitlines():
            if line.startswith("# "):
                name = line.split(" ", 3)[2]
                if name not in seen:
                    families.setdefault(name, ([], []))[0].append(line)
            elif found := _LINE.fullmatch(line):
                labels = f'triton="{triton}",{found["labels"] or ""}'.rstrip(",")
                families.setdefault(name, ([], []))[1].append(f"{found['name']}{{{labels}}} {found['value']}")
    return "".join(f"{line}\n" for about, lines in families.values() for line in (*about, *lines))


def samples(text: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of each sample of one metric. A sample without labels is not found: Triton's have some."""
    for found, labels, value in _SAMPLE.findall(text):
        if found == name:
            yield {key: _ESCAPED.sub(_unescaped, content) for key, content in _LABEL.findall(labels)}, float(value)


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]
