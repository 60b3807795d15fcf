"""The embeddings that each step of a request reads, as rows for the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from darkroom.serving.networks import Array


class EmbedsByStep:
    """Embeddings of all texts of a request, of which each step reads some.

    :param embeds: inputs of the network by name, with a row for each text.
    :param rows: for each step the indices of its texts, see `darkroom.prompts.schedule.PromptSchedule`.
    :param images: rows of the network for each text of a step.
    """

    def __init__(self, embeds: Mapping[str, Array], rows: Sequence[tuple[int, ...]], images: int) -> None:
        self._embeds = embeds
        self._rows = rows
        self._images = images
        self._last: tuple[int, ...] = ()
        self._inputs: dict[str, Array] = {}

    def at(self, index: int) -> Mapping[str, Array]:
        """The inputs at a step, counted from 0: all images with its first text, then all with its second one.

        Steps in a row that read the same texts get the same arrays.
        """
        rows = self._rows[index]
        if rows != self._last:
            self._last = rows
            self._inputs = {
                name: np.repeat(given[list(rows)], self._images, axis=0) for name, given in self._embeds.items()
            }
        return self._inputs
