"""The names of models in OpenAI's API: those of `GET /models`, and the further ones of MODEL_ALIASES."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from darkroom.errors import InvalidInput, NotFound
from darkroom.family import Operation
from darkroom.request.fields import shown
from darkroom.settings import Settings
from proxy.models import ServedModel, choose_model, default_model, installed
from proxy.services import Services

OPERATIONS: tuple[Operation, ...] = ("generate", "edit")
"""The operations whose models these endpoints offer."""
_DEFAULT = "default"
_OTHERS: tuple[Operation, ...] = ("upscale",)


def chosen_model(services: Services, operations: Sequence[Operation], name: object) -> ServedModel:
    """Return the model of a request.

    :param operations: those that the endpoint can use, the preferred one first.
    :param name: what the request has as `model`; None or "" for the default.
    :raises InvalidInput: it is no text, or a model for something else.
    :raises NotFound: there is no such model.
    """
    wanted = _meant(services.settings, name)
    if wanted is None:
        there = [one for one in operations if installed(services, one)]
        return default_model(services, there[0] if there else operations[-1])
    for operation in (*operations, *_OTHERS, *OPERATIONS):
        try:
            model = choose_model(services, operation, wanted)
        except InvalidInput:  # a name that is not known for this operation
            continue
        if operation in operations:
            return model
        raise InvalidInput(
            f"model {shown(name)} is for {operation}, and not for {' or '.join(operations)}.", param="model"
        )
    raise NotFound(f"The model {shown(name)} does not exist; GET /v1/models lists those that there are.", param="model")


def _meant(settings: Settings, name: object) -> str | None:
    """The model that a name stands for; None for the default."""
    if name is None or name == "":
        return None
    if not isinstance(name, str):
        raise InvalidInput(f"model must be a text; got {shown(name)}.", param="model")
    plain = name.strip().lower()
    target = next((model for alias, model in aliases(settings) if fnmatchcase(plain, alias)), plain)
    return None if target.lower() == _DEFAULT else target


def aliases(settings: Settings) -> Iterator[tuple[str, str]]:
    """The names of MODEL_ALIASES in lower case, with the models that they stand for."""
    for one in settings.model_aliases:
        name, _, model = one.partition("=")
        yield name.strip().lower(), model.strip()


def listed(services: Services) -> dict[str, ServedModel]:
    """The models by the names that `GET /v1/models` lists: their own, and those of MODEL_ALIASES without a `*`."""
    own = {model.name: model for operation in OPERATIONS for model in installed(services, operation)}
    for alias, _ in aliases(services.settings):
        if not _is_pattern(alias) and alias not in own:
            try:
                own[alias] = chosen_model(services, OPERATIONS, alias)
            except (InvalidInput, NotFound):  # it stands for a model that is not installed
                continue
    return own


def _is_pattern(alias: str) -> bool:
    return any(mark in alias for mark in "*?[")


def name_pattern(settings: Settings, names: Sequence[str]) -> str:
    """A regular expression for the names that a request may have as its `model`, for the documentation."""
    plain = [re.escape(name) for name in names]
    others = [re.escape(alias).replace(r"\*", "[a-z0-9.-]*") for alias, _ in aliases(settings)]
    return f"^({'|'.join([*plain, *others])})$"


def always_in_base64(name: object) -> bool:
    """Whether images come in base64 whatever the request says, as OpenAI's models of that name do it."""
    return isinstance(name, str) and name.strip().lower().startswith(("gpt-image", "chatgpt-image"))


def usually_by_url(name: object) -> bool:
    """Whether images come as URLs where a request does not say how."""
    return isinstance(name, str) and name.strip().lower().startswith("dall-e")
