"""Answers about LoRA files, for `/openapi.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from proxy.answers import Answer, Warned


class ReadLora(Answer):
    """What a model has read of a LoRA file."""

    applied: int = Field(description="Tensors of the file that act.")
    total: int = Field(description="Tensors of the file.")
    unused: list[str] = Field(description="Names of tensors that do not act; at most 20.")
    rank: int = Field(description="The largest rank of its layers.")
    alpha: float | None = Field(description="Of the training, where the file says it.")
    base_model: str = Field(description="As the trainer called it.")
    title: str
    trigger_words: list[str]
    tags: list[str] = Field(description="The most frequent words of the training captions; at most 20.")
    warnings: list[str] = Field(description="What was left out or approximated, and how far.")


class ListedLora(Answer):
    """A LoRA file of the library."""

    name: str = Field(description="As requests name it: in `loras`, or as `<lora:name:0.8>` in a prompt.")
    digest: str = Field(description="SHA-256 of the file.")
    size: int = Field(description="Bytes.")
    modified: str


class Lora(ListedLora):
    """A LoRA file, and what the installed models have read of it."""

    models: dict[str, ReadLora] = Field(description="By the names of the models that it fits.")
    refused: dict[str, str] = Field(description="By the names of the models that it does not fit: the reasons.")


class UploadedLora(Lora, Warned):
    """A LoRA file that was uploaded."""


class Loras(Answer):
    """The library."""

    loras: list[ListedLora]


class DeletedLora(Answer):
    """A LoRA file was deleted."""

    status: Literal["deleted"]
    name: str
