"""The LoRAs in use by the rows of a network, as the matrices of its graph; see `darkroom.serving.lora_layout`.

A slot holds the LoRAs of one row with their ranks concatenated, so several LoRAs cost as much as one with the sum of
their ranks. Slots have a few ranks only (powers of two). A *shelf* holds the slots of one rank, and a batch takes its
slots from the shelf of its largest rank, since a graph has one rank for all rows. Slot 0 of each shelf is zeros, for
rows without LoRAs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from darkroom.errors import InvalidInput
from darkroom.serving.lora_cache import LoraCache
from darkroom.serving.lora_layout import DOWN, INDEX, SCALE, UP, LoraLayout
from darkroom.serving.loras import RowLoras
from darkroom.serving.measures import LORA_EVICTIONS, LORA_LOADS, RECORDER
from darkroom.serving.networks import Array

Key = tuple[str, ...]
"""The digests of the LoRAs in a slot, in their order there."""
Pack = dict[str, tuple[Array, Array]]
"""The matrices down (rank, in) and up (out, rank) of a LoRA, by the name of the module."""
Place = Callable[[Array], Any]
"""Puts an array where the engine reads it."""

SMALLEST_RANK = 4
LARGEST_RANK = 4096
"""Maximum rank of all LoRAs of one row together."""


def shelf_rank(rank: int) -> int:
    """The rank of the slots that hold LoRAs of this rank: the next power of two."""
    return max(SMALLEST_RANK, 1 << (rank - 1).bit_length())


class LoraBank:
    """The slots of one network. Not thread safe.

    :param limit: maximum size of all slots in bytes; a single batch may take more.
    :param place: called with the matrices of a shelf each time that they have changed.
    :ivar loads: number of slots written so far.
    """

    def __init__(self, layout: LoraLayout, cache: LoraCache, *, limit: float, place: Place) -> None:
        self._layout = layout
        self._cache = cache
        self._dtype = np.dtype(layout.dtype)
        self._limit = limit
        self._place = place
        self._ranks: dict[str, int] = {}
        self._shelves: OrderedDict[int, _Shelf] = OrderedDict()
        self.loads = 0

    @property
    def size(self) -> int:
        """Bytes of all slots. Thread safe."""
        return sum(shelf.size for shelf in tuple(self._shelves.values()))

    @property
    def used(self) -> int:
        """Number of slots that hold LoRAs. Thread safe."""
        return sum(len(shelf.slots) for shelf in tuple(self._shelves.values()))

    def inputs(self, loras: RowLoras) -> dict[str, Any] | None:
        """Return the LoRA inputs of the graph for a batch: arrays, and the matrices as `place` returned them.

        :returns: None if no LoRA of the batch changes anything in this network.
        :raises LoraMissing: a LoRA is neither in a slot nor in the cache.
        :raises InvalidInput: a LoRA does not fit the network, or is damaged.
        """
        rows = loras.rows()
        if all(row == rows[0] for row in rows):
            rows = rows[:1]  # one entry for all rows: then the matrices need not be copied for each row
        packs: dict[str, Pack] = {}
        for digest in {digest for row in rows for digest in row}:
            if digest not in self._ranks:
                packs[digest] = self._read(digest)
        keys = [tuple(sorted(digest for digest in row if self._ranks[digest])) for row in rows]
        if not any(keys):
            return None
        shelf = self._shelf(shelf_rank(max(self._rank(key) for key in keys)))
        self._fill(shelf, {key for key in keys if key}, packs)
        scale = np.zeros((len(rows), shelf.rank), np.float32)
        for row, key, factors in zip(rows, keys, scale, strict=True):
            at = 0
            for digest in key:
                factors[at : at + self._ranks[digest]] = row[digest]
                at += self._ranks[digest]
        index = np.array([shelf.slots[key] if key else 0 for key in keys], np.int64)
        down, up = shelf.placed(self._place)
        return {INDEX: index, SCALE: scale, DOWN: down, UP: up}

    def _rank(self, key: Key) -> int:
        rank = sum(self._ranks[digest] for digest in key)
        if rank > LARGEST_RANK:
            raise InvalidInput(
                f"The LoRAs of an image may have a rank of {LARGEST_RANK} together; got {rank}.", param="loras"
            )
        return rank

    def _read(self, digest: str) -> Pack:
        """Read a LoRA's matrices for this network, and store its rank."""
        pack = self._cache.read(digest, self._layout)
        for name, (down, up) in pack.items():
            target = self._layout.by_name.get(name)
            if target is None:
                raise InvalidInput(
                    f"The LoRA {digest} changes {name}, which this network does not have.", param="loras"
                )
            fits = down.ndim == up.ndim == 2 and down.shape[0] == up.shape[1]
            if not fits or (up.shape[0], down.shape[1]) != (target.out_features, target.in_features):
                raise InvalidInput(
                    f"The LoRA {digest} does not fit: {name} is {target.out_features} x {target.in_features}, its "
                    f"matrices are {list(up.shape)} and {list(down.shape)}.",
                    param="loras",
                )
        self._ranks[digest] = max((len(down) for down, _ in pack.values()), default=0)
        return pack

    def _shelf(self, rank: int) -> _Shelf:
        """Return the shelf of a rank, and mark it as the most recently used one."""
        if rank not in self._shelves:
            self._shelves[rank] = _Shelf(rank, self._layout, self._dtype)
        self._shelves.move_to_end(rank)
        return self._shelves[rank]

    def _fill(self, shelf: _Shelf, keys: set[Key], packs: dict[str, Pack]) -> None:
        """Put the LoRAs of a batch into slots of its shelf.

        :param packs: the LoRAs that have been read already.
        """
        for key in keys & shelf.slots.keys():
            shelf.slots.move_to_end(key)
        missing = sorted(keys - shelf.slots.keys())
        for digest in {digest for key in missing for digest in key}:
            if digest not in packs:
                packs[digest] = self._read(digest)
        for left, key in zip(range(len(missing), 0, -1), missing, strict=True):
            slot = self._free_slot(shelf, keys, left)
            shelf.write(slot, key, [(packs[digest], self._ranks[digest]) for digest in key])
            self.loads += 1
            RECORDER.count(LORA_LOADS)

    def _free_slot(self, shelf: _Shelf, keys: set[Key], needed: int) -> int:
        """Return a slot that this batch does not use.

        :param needed: number of slots that the batch still needs.
        """
        if (slot := shelf.free()) is not None:
            return slot
        more = max(needed, shelf.capacity - 1)
        if self.size + more * shelf.slot_size > self._limit:
            for key in shelf.slots:  # least recently used first
                if key not in keys:
                    RECORDER.count(LORA_EVICTIONS)
                    return shelf.slots.pop(key)
            more = needed
            for rank in list(self._shelves)[:-1]:
                if self.size + more * shelf.slot_size > self._limit:
                    RECORDER.count(LORA_EVICTIONS, len(self._shelves.pop(rank).slots))
        shelf.grow(more)
        slot = shelf.free()
        assert slot is not None
        return slot


class _Shelf:
    """Slots of one rank, in two arrays.

    :ivar slots: the number of each slot by its LoRAs, least recently used first.
    """

    def __init__(self, rank: int, layout: LoraLayout, dtype: np.dtype[Any]) -> None:
        self.rank = rank
        self.slots: OrderedDict[Key, int] = OrderedDict()
        self._layout = layout
        self._down = np.zeros((1, rank, layout.in_features), dtype)
        self._up = np.zeros((1, layout.out_features, rank), dtype)
        self._placed: tuple[Any, Any] | None = None

    @property
    def capacity(self) -> int:
        """Number of slots, including the one of zeros."""
        return len(self._down)

    @property
    def slot_size(self) -> int:
        """Bytes of one slot."""
        return int(self._down[0].nbytes + self._up[0].nbytes)

    @property
    def size(self) -> int:
        """Bytes of all slots."""
        return self.capacity * self.slot_size

    def free(self) -> int | None:
        """The number of an empty slot; None if all are in use."""
        taken = {0, *self.slots.values()}
        return next((slot for slot in range(self.capacity) if slot not in taken), None)

    def grow(self, more: int) -> None:
        """Add empty slots."""
        self._placed = None
        self._down = np.concatenate([self._down, np.zeros((more, *self._down.shape[1:]), self._down.dtype)])
        self._up = np.concatenate([self._up, np.zeros((more, *self._up.shape[1:]), self._up.dtype)])

    def write(self, slot: int, key: Key, packs: Sequence[tuple[Pack, int]]) -> None:
        """Fill a slot with LoRAs, each given with its rank."""
        self._placed = None
        down, up, at = self._down[slot], self._up[slot], 0
        down[...] = 0
        up[...] = 0
        for pack, rank in packs:
            for name, (one_down, one_up) in pack.items():
                target = self._layout.by_name[name]
                down[at : at + len(one_down), target.columns] = one_down
                up[target.lines, at : at + len(one_down)] = one_up
            at += rank
        self.slots[key] = slot

    def placed(self, place: Place) -> tuple[Any, Any]:
        """Return both arrays, placed where the engine reads them."""
        if self._placed is None:
            self._placed = place(self._down), place(self._up)
        return self._placed
