"""What a content policy of 5,000 words costs a request."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from functools import partial

from benchmarks.context import Context
from benchmarks.results import Finding, Section, Table
from proxy.policy.conditions import Condition
from proxy.policy.rules import Facts, Policy, Rule
from proxy.policy.words import WordList, Words

WORDS, RULES = 5000, 20
TARGET_MS = 1.0
_CONDITION = 'operation == "generate" && (width * height > 9000000 || steps > 500) && prompt.contains("zzz")'
_EN = "a highly detailed oil painting of an old lighthouse on a cliff at dusk, dramatic clouds, warm light, "
_ZH = "一座悬崖上的老灯塔,黄昏,戏剧性的云,窗户里的暖光,油画,细节丰富,"
PROMPTS = {
    "a short prompt": "a cat on a blue background",
    "a long prompt": _EN * 3,
    "a Chinese prompt": _ZH * 5,
    "weights": "(a cat:1.2), on (grass:0.9), masterpiece, " * 4,
    "words that change": "(a cat:1.2), [dog:cat:0.5] on (grass:0.9), masterpiece, " * 3,
    "the longest prompt, other letters": "nüdé " * 800,
}
"""Prompts by what they are; the first is the usual one."""


def run(context: Context) -> Section:
    """Milliseconds to judge a request, by its prompt."""
    policy = made_policy()
    context.stage("judging prompts", len(PROMPTS))
    rows = []
    for name, prompt in PROMPTS.items():
        facts = Facts(operation="generate", prompts=(prompt,), negative_prompts=("blurry, low quality",), steps=20)
        rows.append((name, len(prompt), _milliseconds(partial(policy.judge, facts), context.choose(500, 20))))
        context.step(len(rows))
    title = f"A policy of {len(policy.words):,} words and {len(policy.rules)} rules, half of them with a condition"
    table = Table(title=title, columns=("prompt", "characters", "ms"), rows=tuple(rows), note="Medians, on one thread.")
    usual = Finding(name=f"judging a prompt by {WORDS:,} words", value=rows[1][2], unit="ms", target=TARGET_MS)
    return Section(name="policy", title="Content policy", findings=(usual,), tables=(table,))


def made_policy() -> Policy:
    """A policy of drawn words, four fifths of them English; the same at every call."""
    drawn = random.Random(1)
    latin = [
        "".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=drawn.randint(4, 10))) for _ in range(WORDS * 4 // 5)
    ]
    han = ["".join(chr(drawn.randint(0x4E00, 0x9FFF)) for _ in range(drawn.randint(2, 4))) for _ in range(WORDS // 5)]
    words = Words({"latin": WordList(words=latin), "han": WordList(words=han)})
    rules = [Rule(id=f"words-{n}", words=(words.lists[n % 2],), refuse="No.") for n in range(RULES // 2)]
    condition = Condition(_CONDITION, words.lists)
    rules += [Rule(id=f"condition-{n}", condition=condition, refuse="No.") for n in range(RULES // 2)]
    return Policy(version="1", digest="", words=words, lists={}, rules=tuple(rules))


def _milliseconds(work: Callable[[], object], times: int) -> float:
    """The median of many runs, after one that does not count."""
    work()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1000
