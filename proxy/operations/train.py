"""The operation `train`: trains a LoRA on the images of a session and puts it there."""

from __future__ import annotations

import asyncio
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from darkroom.errors import Conflict, NoImages
from darkroom.files import write_atomically
from darkroom.request.edge import edge_model, named, rest_names
from darkroom.request.training import TrainingOptions
from darkroom.serving.networks import ModelSpec
from darkroom.settings import Settings
from proxy.audit.notes import note_request
from proxy.models import of_operation
from proxy.operations import trainer_process
from proxy.operations.base import Operation
from proxy.operations.checkpoints import served_model, training_checkpoint
from proxy.operations.samples import Samples
from proxy.policy.judging import facts_of, judged, lowered
from proxy.policy.rules import Cut
from proxy.services import Services
from proxy.sessions.fields import SessionFields
from proxy.sessions.store import SessionStore
from proxy.tasks.models import Output, TaskContext, Work
from proxy.validation import validated

LOSSES, CURVE = "loss.csv", "loss.svg"
_NEEDED = "peft"
LORA, NAME = "lora.safetensors", "lora_name"
"""Files in the workspace: the finished LoRA, and the name that it has, or is about to get, in its session."""


def key_of(session_id: str) -> str:
    """The key of the trainings of a session, of which one runs at a time; see `Work.exclusive`."""
    return f"session:{session_id}"


@dataclass(frozen=True, kw_only=True)
class Train:
    """The fields are `session_id` and those of `TrainingOptions`.

    The trainer is a process of its own, which keeps its progress in the workspace of the task.
    """

    name: ClassVar[str] = "train"
    lane: ClassVar[str] = "training"
    pipeline: ClassVar[ModelSpec | None] = None
    resumable: ClassVar[bool] = True
    longest_turn: ClassVar[float] = math.inf
    fallback_seconds: ClassVar[float] = 2.0

    @property
    def names(self) -> frozenset[str]:
        return rest_names(TrainingOptions) | SessionFields.model_fields.keys()

    def bound(self, services: Services, fields: dict[str, Any]) -> Operation:
        return self

    async def accept(self, services: Services, fields: dict[str, Any]) -> Work:
        session = validated(fields, SessionFields).session_id
        sent = validated(fields, edge_model(TrainingOptions), TrainingOptions.ranges(None)).model_dump()
        options = TrainingOptions.parse(named(TrainingOptions, sent), None)
        await note_request(self.name, "", options.model_dump(exclude_none=True))
        store = SessionStore(services.settings.session_dir)
        images = len(await asyncio.to_thread(store.examples, session))
        if not images:
            raise NoImages("The session has no images to train on; see POST /post_session_image.", param="session_id")
        if importlib.util.find_spec(_NEEDED) is None:
            raise Conflict("Training is not installed here: it needs PEFT, pip install 'darkroom[train]'.")
        checkpoint = await asyncio.to_thread(training_checkpoint, services.settings)
        # Images of different shapes do not share steps, so there may be a few more.
        steps = options.steps or options.epochs * math.ceil(images / options.batch_size)
        cuts: Sequence[Cut] = ()
        if services.policy is not None:
            texts, side = await asyncio.to_thread(_texts, store, session, options), options.resolution or 0
            known: dict[str, Any] = {"prompts": texts, "sample_steps": _sample_steps()}
            known |= {"width": side, "height": side, "steps": steps, "num_images": images}
            cuts = (await judged(services, facts_of(self.name, Path(checkpoint).name, **known))).cuts
        for cut in cuts:
            steps = int(cut.after)
            options = options.with_values(steps=steps)
        return Work(
            fields={"session_id": session, "checkpoint": checkpoint, **options.model_dump(exclude_none=True)},
            steps=steps,
            kind=f"{Path(checkpoint).name[:60]} {options.resolution or 'default'}",
            units=steps * options.batch_size,
            pictures=images,
            exclusive=key_of(session),
            exclusive_or_refuse=True,
            warnings=[lowered(cut) for cut in cuts],
        )

    async def run(self, context: TaskContext) -> list[Output]:
        services, fields, workspace = context.services, context.fields, context.workspace
        store, session = SessionStore(services.settings.session_dir), str(fields["session_id"])
        images = await asyncio.to_thread(store.folder, session)
        progress: dict[str, Any] = {"step": 0, "steps": 0}

        def heard(said: dict[str, Any]) -> None:
            if services.measures is not None and "loss" in said:  # it is in the line of each step
                services.measures.trained(1, said["loss"])
            progress.update(said)
            emit()
            if "epoch" in said:
                samples.wake()

        def emit() -> None:
            context.emit(progress["step"], progress["steps"], None)

        samples = await _samples(context, store, emit)
        async with samples.beside():
            await trainer_process.train(
                _arguments(fields, images, workspace, services.settings),
                services.settings,
                heard=heard,
                alive=emit,
                save=context.goes_on,
            )
            name = await asyncio.to_thread(keep_lora, store, session, workspace)
        details = {
            "lora": name,
            "session_id": session,
            "steps": progress["steps"],
            "loss": last_loss(workspace / LOSSES),
            **({"samples_left_out": samples.left_out} if samples.left_out else {}),
        }
        return [
            Output(data=workspace / LORA, media_type="application/octet-stream", details=details, name=name),
            Output(data=workspace / LOSSES, media_type="text/csv", name=LOSSES),
            Output(data=workspace / CURVE, media_type="image/svg+xml", name=CURVE),
            *await asyncio.to_thread(samples.outputs),
        ]


async def _samples(context: TaskContext, store: SessionStore, alive: Callable[[], None]) -> Samples:
    """What makes the sample images of a training."""
    fields, services = context.fields, context.services
    options = TrainingOptions.parse(fields, None)
    model, captions = None, []
    if options.sample_images:
        model = await asyncio.to_thread(served_model, services, str(fields["checkpoint"]))
        captions = await asyncio.to_thread(_captions, store, str(fields["session_id"]))
    return Samples(services, context.workspace, model, options.sample_texts(captions), options.seed, alive)


def _texts(store: SessionStore, session: str, options: TrainingOptions) -> list[str]:
    """All texts that a training reads: captions, and prompts of prior and sample images."""
    captions = _captions(store, session)
    return list(dict.fromkeys([*captions, *options.prior_captions, *options.sample_texts(captions)]))


def _sample_steps() -> list[int]:
    """The steps that sample images may have: those of requests that do not say them."""
    return sorted({int(family.request.model_fields["steps"].default) for family in of_operation("generate")})


def _captions(store: SessionStore, session: str) -> list[str]:
    """What the images of a session show; the trainer refuses a caption that is no text."""
    texts = (one.caption.read_text("utf-8-sig", "replace").strip() for one in store.examples(session))
    return [text for text in texts if text]


def last_loss(table: Path) -> float | None:
    """The loss of the last step in a table of the trainer; None while there is none."""
    try:
        return float(table.read_text().splitlines()[-1].partition(",")[2])
    except (OSError, ValueError, IndexError):
        return None


def _arguments(fields: Mapping[str, Any], images: Path, workspace: Path, settings: Settings) -> list[str]:
    """The arguments of `python -m training lora`."""
    given: dict[str, Any] = {name: fields[name] for name in TrainingOptions.fields() if name in fields}
    given |= {"checkpoint": fields["checkpoint"], "state": workspace, "output": workspace / LORA}
    given |= {"title": f"session_{fields['session_id']}", "device": settings.train_device, "nice": settings.train_nice}
    given |= {"save_seconds": settings.train_save_seconds}
    if settings.train_threads is not None:
        given["threads"] = settings.train_threads
    return [str(images), *(f"--{name.replace('_', '-')}={value}" for name, value in given.items())]


def keep_lora(store: SessionStore, session: str, workspace: Path) -> str:
    """Put the finished LoRA into its session; returns its name there.

    The name is written down before: a run after a crash finds it, and adds no second copy.

    :raises NotFound: the session was deleted.
    """
    note, data = workspace / NAME, (workspace / LORA).read_bytes()
    name = note.read_text() if note.is_file() else store.next_lora_name(session)
    while True:
        write_atomically(note, name.encode())
        try:
            return store.add_lora(session, data, name)
        except Conflict:  # another file got the name meanwhile
            name = store.next_lora_name(session)
