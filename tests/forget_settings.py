"""The settings as on a machine where nothing is set."""

from __future__ import annotations

import os

import pytest

from darkroom.family_settings import FamilySettings, settings_classes
from darkroom.settings import Settings


def forget_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the service or of a family is in the environment, and no `.env` is read."""
    classes: list[type[Settings] | type[FamilySettings]] = [Settings, *settings_classes().values()]
    names = {name.upper() for name in Settings.model_fields}
    for family in settings_classes().values():
        names |= {family.variable(name) for name in family.model_fields}
        names |= {f"{family.old_prefix}{name}".upper() for name in family.model_fields}
        names |= set(family.other_names.values())
    for name in [name for name in os.environ if name.upper() in names]:
        monkeypatch.delenv(name)
    for one in classes:
        monkeypatch.setitem(one.model_config, "env_file", None)
