"""Keys: whether the time of an answer tells a right key from a wrong one, and what a limit costs a request.

`python -m benchmarks.keys` needs no service and takes half a minute.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import sqlalchemy as sa

from benchmarks.timing import in_turns, latencies, ratio, timed
from proxy.keys import quotas
from proxy.keys import store as table
from proxy.keys.hashing import digest_of, new_secret
from proxy.keys.keyring import Keyring
from proxy.keys.models import Limits, NewKey, Rate
from proxy.keys.schema import KEYS
from proxy.tasks.database import connect
from proxy.tasks.store import Store

RIGHT = "right"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


@click.command()
@click.option("--keys", "count", default=1000, show_default=True, help="Keys in the database.")
@click.option("--rounds", default=200, show_default=True, help="Rounds of each measurement.")
def main(count: int, rounds: int) -> None:
    """Time the lookup of right and wrong secrets among many keys, and the count of a request on SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(connect(f"sqlite:///{Path(folder, 'keys.db')}"))
        try:
            store.create()
            _lookups(store, count, rounds)
            _costs(store, rounds)
        finally:
            store.close()


def _lookups(store: Store, count: int, rounds: int) -> None:
    secrets = _fill(store, count)
    ring = Keyring(store)
    asyncio.run(ring.load())
    kinds = {
        RIGHT: secrets,
        "wrong": [new_secret() for _ in range(count)],
        "wrong in the last letter": [one[:-1] + _other(one[-1]) for one in secrets],
        "wrong in the first letter": [one[:3] + _other(one[3]) + one[4:] for one in secrets],
    }
    variants = {name: partial(_cpu_seconds, ring, some) for name, some in kinds.items()}
    seconds = in_turns(variants, rounds=rounds)
    click.echo(f"One of {count} keys, in {rounds} rounds of {count} lookups each:")
    for name, took in seconds.items():
        found = ratio(name, took, seconds[RIGHT])
        low, high = found.quartiles or (found.value, found.value)
        each = statistics.median(took) / count * 1e6
        click.echo(f"  {name:26} {each:6.3f} us, {found.value:.3f} of right (quartiles {low:.3f} to {high:.3f})")


def _fill(store: Store, count: int) -> list[str]:
    """Make keys; returns their secrets."""
    secrets = [new_secret() for _ in range(count)]
    rows = [
        {"id": f"{n}", "name": f"{n}", "digest": digest_of(one), "role": "user", "created_at": float(n)}
        for n, one in enumerate(secrets)
    ]
    with store.transaction() as connection:
        connection.execute(sa.insert(KEYS), rows)
    return secrets


def _cpu_seconds(ring: Keyring, secrets: Sequence[str]) -> float:
    """The time that looking up all of these takes on the CPU, whatever else the machine does."""
    began = time.thread_time()
    for one in secrets:
        ring.find(one)
    return time.thread_time() - began


def _other(letter: str) -> str:
    return _LETTERS[(_LETTERS.index(letter) + 1) % len(_LETTERS)]


def _costs(store: Store, rounds: int) -> None:
    rate = Rate(count=10_000, seconds=60)
    key, _ = table.create(store, NewKey(name="limited", limits=Limits(images_per_day=1_000_000, concurrent=10_000)))

    def direct() -> None:
        id = str(uuid.uuid4())
        quotas.charge(store, key, id, 1)
        quotas.settle(store, id, 1)

    variants = {"a rate": timed(partial(quotas.hit, store, key.id, rate)), "images and places": timed(direct)}
    click.echo("What a limit costs a request, on SQLite:")
    for name, took in in_turns(variants, rounds=rounds).items():
        p50, p95, p99 = latencies(took)
        click.echo(f"  {name:26} p50 {p50:.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms")


if __name__ == "__main__":
    main()
