"""The repository that Triton reads: a folder of links to the models to serve.

Triton unloads a model within a second or two after its link is removed, and loads it again when the link is back.
"""

from __future__ import annotations

import compileall
from collections.abc import Callable, Iterable
from pathlib import Path


class Served:
    """Manages the links.

    :param folder: the folder of the links; it must contain nothing else.
    :param repository: the folder that they point to.
    :param is_chosen: whether the model of a name is to be served.
    """

    def __init__(self, folder: Path, repository: Path, is_chosen: Callable[[str], bool]) -> None:
        self.folder = folder
        self._repository = repository.absolute()
        self._is_chosen = is_chosen

    def clear(self) -> None:
        """Make the folder, and remove all links."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.remove(path.name for path in self.folder.iterdir())

    def linked(self) -> frozenset[str]:
        """The models that have a link."""
        return frozenset(path.name for path in self.folder.iterdir())

    def fill(self) -> None:
        """Link every chosen model of the repository."""
        there = (path.name for path in self._repository.iterdir() if path.is_dir() and not path.name.startswith("."))
        self.add(filter(self._is_chosen, there))

    def add(self, models: Iterable[str]) -> None:
        """Link models, so that Triton loads them."""
        for model in list(models):
            for path in (self._repository / model).glob("*/model.py"):
                # Otherwise the stub compiles it, even with PYTHONDONTWRITEBYTECODE, and the server takes this for
                # a change and loads the model once more. Compiled code is left alone, as other services may serve it.
                compileall.compile_file(path, quiet=2)
            link = self.folder / model
            if not link.is_symlink():
                link.symlink_to(self._repository / model, target_is_directory=True)

    def remove(self, models: Iterable[str]) -> None:
        """Remove the links of models, so that Triton unloads them."""
        for model in list(models):
            (self.folder / model).unlink(missing_ok=True)
