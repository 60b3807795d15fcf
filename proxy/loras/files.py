"""What requests mean by the name of a LoRA, the id of a session or a digest; and LoRA files on their way to Triton."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.diffusion.lora.tags import take_loras
from darkroom.errors import Forbidden, InvalidInput, LoraMissing, NotFound, NotReady
from darkroom.request.loras import FIELD, MOST_LORAS, LoraChoice, parse_loras
from darkroom.serving.networks import ModelSpec
from darkroom.settings import Settings
from proxy.callers import CALLER
from proxy.gateway import Gateway
from proxy.loras.library import Digests, LoraLibrary
from proxy.sessions.store import SessionStore

if TYPE_CHECKING:
    from proxy.models import ServedModel
    from proxy.services import Services

PROMPT = "prompt"


class LoraFiles:
    """The LoRA files of this installation: those of the library and those of sessions.

    :ivar library: those that people name.
    :ivar turn: held while the content of a file is in memory: each takes several times its size.
    """

    def __init__(self, settings: Settings) -> None:
        self.library = LoraLibrary(settings.lora_dir)
        self._sessions = SessionStore(settings.session_dir)
        self._digests = Digests()
        self._paths: dict[str, Path] = {}
        self._sent: set[tuple[str, str, str]] = set()
        self.turn = asyncio.Lock()

    async def settled(self, services: Services, model: ServedModel, values: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a request whose LoRAs are named by digests, those of tags in the prompt among them.

        The model has the files then, on every Triton that is ready.

        :raises InvalidInput: the model takes no LoRAs; two of them are the same; a file does not fit the model.
        :raises NotFound: there is no such LoRA.
        """
        prompt = values.get(PROMPT)
        text, tags = take_loras(prompt) if isinstance(prompt, str) else (prompt, ())
        given = values.get(FIELD)
        if not tags and given is None:
            return dict(values)
        _reader_of(model, PROMPT if tags else FIELD)
        wanted = [*parse_loras(given or ()), *tags]
        if len(wanted) > MOST_LORAS:
            raise InvalidInput(f"A request may have at most {MOST_LORAS} LoRAs; got {len(wanted)}.", param=FIELD)
        places = [f"{FIELD}[{index}]" for index in range(len(wanted) - len(tags))]
        choices = await asyncio.to_thread(self._resolved, wanted, places)
        for index, (asked, choice) in enumerate(zip(wanted, choices, strict=True)):
            try:
                if self._lacking(services, model, str(choice.digest)):
                    await self.send(services, model, str(choice.digest))
            except NotReady:  # the request waits, too, or is refused with this error
                break
            except InvalidInput as error:
                place = _place(asked, index, places)
                raise type(error)(f"{place}: {error.message}", param=place) from None
        found = {**values, FIELD: json.dumps([choice.to_json() for choice in choices])}
        return {**found, PROMPT: text} if tags else found

    async def send(self, services: Services, model: ServedModel, digest: str) -> None:
        """Send a LoRA file to a model: to the Tritons that have not got it, and to all if each has.

        :raises LoraMissing: no file here has the digest.
        :raises InvalidInput: the file does not fit the model, or is damaged.
        """
        async with self.turn:
            path = await asyncio.to_thread(self.path_of, digest)
            try:
                data = await asyncio.to_thread(path.read_bytes)
            except FileNotFoundError:
                raise _missing(digest) from None
            lacking = self._lacking(services, model, digest)
            await (self._read_at(lacking, model, data) if lacking else self.read_by(services, model, data))

    async def read_by(self, services: Services, model: ServedModel, data: bytes) -> dict[str, Any]:
        """Have a model read a LoRA file and keep it, on every Triton that is ready; returns what it has read.

        :raises InvalidInput: the file does not fit the model, or is damaged.
        :raises NotReady: no Triton has taken it.
        """
        return await self._read_at(services.gateway.each(_reader_of(model, FIELD).name), model, data)

    async def _read_at(self, gateways: Sequence[Gateway], model: ServedModel, data: bytes) -> dict[str, Any]:
        reader, content = _reader_of(model, FIELD), np.frombuffer(data, np.uint8)
        summary: dict[str, Any] = {}
        problem = NotReady(f"{reader.name} is not ready.")
        for gateway in gateways:
            try:
                async for outputs in gateway.stream(reader.name, {"file": content}):
                    summary = json.loads(outputs["summary"].reshape(-1)[0])
            except NotReady as error:  # the others are enough, and this one is asked again when it is ready
                problem = error
            else:
                self._sent.add((gateway.address, model.name, summary["digest"]))
        if not summary:
            raise problem
        return summary

    def _lacking(self, services: Services, model: ServedModel, digest: str) -> list[Gateway]:
        """The Tritons that are ready for a model and have not got a file from this proxy."""
        gateways = services.gateway.each(_reader_of(model, FIELD).name)
        return [one for one in gateways if (one.address, model.name, digest) not in self._sent]

    def path_of(self, digest: str) -> Path:
        """The file with a digest. It reads files that it does not know yet: call it in a thread.

        :raises LoraMissing: there is none.
        """
        known = [self._paths[digest]] if digest in self._paths else []
        for path in chain(known, self._all()):
            with contextlib.suppress(OSError, NotFound):  # deleted meanwhile
                if self.digest_of(path) == digest:
                    return path
        raise _missing(digest)

    def digest_of(self, path: Path, *, param: str = "name") -> str:
        """The SHA-256 of a LoRA file.

        :param param: the field that names it.
        :raises NotFound: it is not there any more.
        """
        try:
            digest = self._digests.of(path)
        except FileNotFoundError:
            raise NotFound(f"The LoRA {path.stem[:80]!r} was deleted.", param=param) from None
        self._paths[digest] = path
        return digest

    def _all(self) -> Iterator[Path]:
        yield from (file.path for file in self.library.all_files())
        yield from self._sessions.lora_paths()

    def _require_use(self, digest: str, place: str) -> None:
        """:raises Forbidden: all files with the digest belong to other keys."""
        if CALLER.get().sees_all:
            return
        mine = chain((file.path for file in self.library.files()), self._sessions.lora_paths(of_others=False))
        if not self._has(mine, digest) and self._has(self._all(), digest):
            raise Forbidden(f"The LoRA {digest} belongs to another key.", param=place)

    def _has(self, paths: Iterable[Path], digest: str) -> bool:
        for path in paths:
            with contextlib.suppress(OSError, NotFound):  # deleted meanwhile
                if self.digest_of(path) == digest:
                    return True
        return False

    def _resolved(self, choices: Sequence[LoraChoice], places: Sequence[str]) -> list[LoraChoice]:
        """The same choices, by digests.

        :param places: what errors call the first ones; the others are tags of the prompt.
        :raises NotFound: a name or a session has no LoRA.
        :raises Forbidden: a LoRA belongs to another key.
        :raises InvalidInput: two choices are the same file.
        """
        found: list[LoraChoice] = []
        for index, choice in enumerate(choices):
            kind, value = choice.reference
            place = _place(choice, index, places)
            if kind == "digest":
                self._require_use(value, place)
                resolved = choice
            else:
                path = (
                    self.library.find(value, param=place).path
                    if kind == "name"
                    else self._sessions.newest_lora(value, param=place)
                )
                digest = self.digest_of(path, param=place)
                resolved = replace(choice, name=path.stem, session_id=None, digest=digest)
            if resolved.digest in [one.digest for one in found]:
                raise InvalidInput(f"{FIELD} has the LoRA {value!r:.80} twice.", param=place)
            found.append(resolved)
        return found


def _place(choice: LoraChoice, index: int, places: Sequence[str]) -> str:
    """The field that names a LoRA; see `LoraFiles._resolved`."""
    return f"{places[index]}.{choice.reference[0]}" if index < len(places) else PROMPT


def _reader_of(model: ServedModel, param: str) -> ModelSpec:
    """:raises InvalidInput: the model takes no LoRAs."""
    if model.family.lora_reader is None:
        raise InvalidInput(f"The model {model.name} takes no LoRAs.", param=param)
    return model.family.lora_reader.labelled(model.label)


def _missing(digest: str) -> LoraMissing:
    return LoraMissing(
        f"No LoRA file here has the SHA-256 {digest}; upload it with POST /loras.", param=FIELD, digest=digest
    )
