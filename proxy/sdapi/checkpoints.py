"""The installed models as AUTOMATIC1111's checkpoints."""

from __future__ import annotations

import re
from typing import Any

from darkroom.errors import DarkroomError
from proxy.models import ServedModel, choose_model, default_model, installed
from proxy.sdapi.refusals import CHECKPOINT, by_their_names
from proxy.services import Services

_HASH = re.compile(r" \[([0-9a-fA-F]{1,64})\]$")
_ENDINGS = (".safetensors", ".ckpt")


def title_of(services: Services, model: ServedModel) -> str:
    """What clients show and send: the name of the model, with the hash of its checkpoint behind it."""
    found = _hash_of(services, model)
    return f"{model.name} [{found}]" if found else model.name


def listed(services: Services) -> list[dict[str, Any]]:
    """The models that make images of a text, as the web UI lists checkpoints. There are no paths in it."""
    return [_described(services, model) for model in installed(services, "generate")]


def _described(services: Services, model: ServedModel) -> dict[str, Any]:
    found = _hash_of(services, model)
    return {
        "title": title_of(services, model),
        "model_name": model.name,
        "hash": found,
        "sha256": None,
        "filename": f"{model.name}.safetensors",
        "config": None,
    }


def chosen(services: Services, name: object) -> ServedModel:
    """The model that a request means: by its title, name or hash, or by the name of its checkpoint.

    :param name: None or "" for the default.
    :raises InvalidInput, NotFound: there is no such model.
    """
    if name is None or name == "":
        return default_model(services, "generate")
    wanted = name.strip() if isinstance(name, str) else name
    if isinstance(wanted, str):
        bare = _HASH.sub("", wanted)
        bare = next((bare.removesuffix(ending) for ending in _ENDINGS if bare.endswith(ending)), bare)
        for model in installed(services, "generate"):
            if bare == model.name or wanted == _hash_of(services, model):
                return model
        wanted = bare
    with by_their_names({"model": CHECKPOINT}):
        return choose_model(services, "generate", wanted)


def chosen_or_default(services: Services, name: object) -> ServedModel:
    """As `chosen`; the default where there is no such model any more."""
    try:
        return chosen(services, name)
    except DarkroomError:
        return default_model(services, "generate")


def _hash_of(services: Services, model: ServedModel) -> str | None:
    checkpoint = model.checkpoint(services)
    return checkpoint.digest if checkpoint is not None else None
