"""The base of every family's settings: `darkroom/pipelines/<family>/settings.py` has the class `Settings` of a family.

The names of its environment variables are a prefix and the names of its fields. The service reads it as a part of
`darkroom.settings.Settings`, and Triton's processes read it from their environment: `Settings()`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.sources import DotenvType
from typing_extensions import Self

from darkroom import pipelines
from darkroom.home import ENV_FILE


class HasFamilies(Protocol):
    """The service's settings, as `FamilySettings.of` reads them."""

    @property
    def family_settings(self) -> Mapping[str, FamilySettings]: ...


class FamilySettings(BaseSettings):
    """A subclass sets `env_prefix` in its `model_config`, and gives each field a description, a range and a default.

    `title` is the heading of its section in `.env.example`. `old_prefix` began the names of its variables in earlier
    versions; those are still read where the new name is not set. So are `other_names`, the variables of other services
    by the field.
    """

    model_config = SettingsConfigDict(env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True)
    title: ClassVar[str]
    old_prefix: ClassVar[str] = ""
    other_names: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def of(cls, settings: HasFamilies) -> Self:
        """The settings of this family, from those of the service.

        :raises LookupError: the service's settings have none of this class.
        """
        for found in settings.family_settings.values():
            if isinstance(found, cls):
                return found
        raise LookupError(f"the settings have no {cls.__module__}.{cls.__name__}")

    @classmethod
    def variable(cls, field: str) -> str:
        """The environment variable of a field."""
        return f"{cls.model_config.get('env_prefix', '')}{field}".upper()

    @classmethod
    def old_names(cls, env_file: DotenvType | None) -> dict[str, str]:
        """The old names of variables that are read because the new ones are not set, by the field.

        :param env_file: is read beside the environment.
        """
        if not cls.old_prefix:
            return {}

        def given(prefix: str | None) -> set[str]:
            sources = EnvSettingsSource(cls, env_prefix=prefix), DotEnvSettingsSource(cls, env_file, env_prefix=prefix)
            return {field for source in sources for field in source()}

        fields = (given(cls.old_prefix) & set(cls.model_fields)) - given(None)
        return {field: f"{cls.old_prefix}{field}".upper() for field in sorted(fields)}

    def environment(self) -> dict[str, str]:
        """These settings as environment variables. A family adds what its libraries need there before they are
        imported."""
        return {self.variable(name): as_text(value) for name, value in self if value is not None}

    def problems(self, gpus: Sequence[int]) -> list[str]:
        """Return what the machine lacks for these settings: sentences that say what to fix. With any, the service
        does not start.

        :param gpus: the GPUs that the networks run on.
        """
        return []

    def summary(self) -> str:
        """Return the text of `darkroom doctor` for this family if there is no problem; empty for none."""
        return ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        others = (_OtherNames(settings_cls, source) for source in (env_settings, dotenv_settings))
        sources = init_settings, env_settings, dotenv_settings, *others
        if not (old := cls.old_prefix):
            return sources
        file: DotenvType | None = getattr(dotenv_settings, "env_file", None)
        old_file = DotEnvSettingsSource(settings_cls, file, env_prefix=old)
        return *sources, EnvSettingsSource(settings_cls, env_prefix=old), old_file

    @model_validator(mode="wrap")
    @classmethod
    def _errors_have_full_names(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            old = cls.old_names(cls.model_config.get("env_file"))
            lines = [
                InitErrorDetails(
                    type=line["type"],
                    loc=tuple(old.get(str(part), cls.variable(str(part))).lower() for part in line["loc"][:1]),
                    input=line["input"],
                    ctx=line.get("ctx", {}),
                )
                for line in error.errors()
            ]
            raise ValidationError.from_exception_data(error.title, lines) from None


class _OtherNames(PydanticBaseSettingsSource):
    """Reads `other_names` where another source has read its variables from."""

    def __init__(self, settings_cls: type[BaseSettings], source: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._given: Mapping[str, str | None] = getattr(source, "env_vars", {})

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = getattr(self.settings_cls, "other_names", {}).get(field_name, "")
        return self._given.get(name.lower()), field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value}


def settings_classes() -> dict[str, type[FamilySettings]]:
    """The settings of each family that has some, in the order of the families' names."""
    modules = {name: f"{pipelines.__name__}.{name}.settings" for name in pipelines.family_names()}
    return {
        name: importlib.import_module(module).Settings
        for name, module in modules.items()
        if importlib.util.find_spec(module) is not None
    }


def split_at_commas(value: object) -> object:
    """Split a text into the parts of a setting that is a list; other values are returned unchanged."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def as_text(value: object) -> str:
    """Format a value for the environment: true and false, and commas between the parts of a list."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
