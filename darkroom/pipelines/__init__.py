"""One folder per model family, here and in FAMILIES_PATH."""

from __future__ import annotations

import pkgutil

from darkroom.families_path import folders_of

__path__.extend(folders_of("pipelines"))


def family_names() -> list[str]:
    """The names of all families, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)
