"""The training loop of all stages: budgets, learning rate, averaged weights, saved states, progress."""

from __future__ import annotations

import copy
import io
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from darkroom.files import write_atomically

Report = Callable[[str], None]
_STEPS_PER_WARMUP = 200
_WARMUP = 0.05
"""Steps over which the learning rate rises, or this share of the budget where that is less."""
_FINAL_RATE = 0.02
"""The learning rate ends at this share of its peak."""
_CAPABILITIES: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
"""Capabilities of this machine's CPU; empty with older versions of torch."""
_CHECK_STEPS = 50
"""Between looks at the loss. A GPU would wait for its next step while the CPU waits for the loss of the last one."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Where and how to train. All random numbers follow from seed, device, batch and step, so a resumed run
    continues with the same numbers."""

    folder: Path
    seed: int
    device: torch.device
    samples: int = 40_960
    """How many scenes the stages after the VAE see."""
    batch: int | None = None
    """How many samples a step of them takes; None = what suits the device."""
    rate: float = 1.0
    """The learning rate as a share of the stage's."""
    compiled: bool = False
    """Whether networks go through torch.compile."""
    save_minutes: float = 5.0

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def autocast(self) -> torch.autocast:
        """Compute in bf16 where that is quicker: a CPU without instructions for it takes twice as long as in fp32."""
        native = self.cuda or any(_CAPABILITIES.get(name) for name in ("amx_bf16", "avx512_bf16"))
        return torch.autocast(self.device.type, torch.bfloat16, enabled=native)

    def maybe_compiled(self, network: nn.Module) -> Callable[..., Any]:
        """`network` as it is called in training."""
        if not self.compiled:
            return network
        from torch._inductor import config

        config.cpp.dynamic_threads = True  # or the number of threads at the first call would be the number for ever
        compiled: Callable[..., Any] = torch.compile(network)
        return compiled

    def batch_size(self, cpu: int) -> int:
        """Samples of a step, where a CPU is best served with `cpu` of them. A GPU works on 32 times as many in the time
        that its kernels take to start."""
        return self.batch or (32 * cpu if self.cuda else cpu)

    def generator(self, stage: str, step: int, on: str | None = None) -> torch.Generator:
        """The random numbers of one step, made where they are used: by the device of the run, or the one named."""
        number = self.seed * 1_000_003 + sum(stage.encode()) * 10_000_019 + step
        return torch.Generator(on or self.device).manual_seed(number)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a stage trains: minutes, or steps, or whichever ends first. What was spent before a resume counts; what
    was before a restored checkpoint does not."""

    minutes: float | None = None
    steps: int | None = None

    def progress(self, seconds: float, step: int) -> float:
        """0 at the start, 1 and more when the budget is spent."""
        shares = [0.0]
        if self.minutes is not None:
            shares.append(seconds / 60 / self.minutes if self.minutes else 1.0)
        if self.steps is not None:
            shares.append(step / self.steps if self.steps else 1.0)
        return max(shares)


class TrainingStage(ABC):
    """One stage of training: `modules` are trained to minimize `loss`."""

    name: str
    learning_rate: float
    """At its peak."""
    average: float = 0.999
    """How much of the averaged weights each step keeps."""
    modules: nn.ModuleDict
    batch: int

    def take(self, batch: int, *, cpu: int) -> None:
        """Learn from `batch` samples a step where learning rate and average are for `cpu` of them: with more of them
        the steps are larger, at most twice, and fewer of them are averaged."""
        self.batch = batch
        scale = math.sqrt(batch / cpu)
        self.learning_rate *= min(scale, 2.0)
        self.average = 1 - min((1 - self.average) * scale, 0.02)

    @abstractmethod
    def loss(self, step: int, progress: float) -> tuple[Tensor, int]:
        """Compute the loss (a differentiable scalar) of one batch; also returns the number of samples."""

    def notes(self) -> str:
        """Return text to add to the progress line."""
        return ""


@dataclass(kw_only=True)
class _Clock:
    """Steps, samples and seconds of a stage, over all its runs."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    begun_step: int = 0
    begun_seconds: float = 0.0
    """What was spent when budget and learning rate began: something where a checkpoint was restored."""

    def progress(self, budget: Budget) -> float:
        """0 where the budget began, 1 and more when it is spent."""
        return budget.progress(self.seconds - self.begun_seconds, self.step - self.begun_step)


def state_path(run: TrainingRun, stage: str) -> Path:
    """Return the path of a stage's state."""
    return run.folder / f"{stage}.pt"


def averaged_weights(run: TrainingRun, stage: str) -> dict[str, dict[str, Tensor]]:
    """Module name -> averaged weights of a stage that has a state.

    :raises FileNotFoundError: the stage was never trained.
    """
    path = state_path(run, stage)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; train the stage {stage!r} first.")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    weights: dict[str, dict[str, Tensor]] = {}
    for key, value in state["average"].items():
        module, _, name = key.partition(".")
        weights.setdefault(module, {})[name] = value
    return weights


def save_file(path: Path, content: object) -> None:
    """Write `content` with torch, atomically."""
    data = io.BytesIO()
    torch.save(content, data)
    write_atomically(path, data.getvalue())


def write_state(run: TrainingRun, stage: str, weights: dict[str, Tensor], *, clock: dict[str, Any]) -> None:
    """Write a state of finished weights, from which optimizer, learning rate and budget start again.

    :param clock: step, samples and seconds that were spent, and the seed.
    """
    spent = {name: clock[name] for name in ("step", "samples", "seconds")}
    spent |= {"begun_step": clock["step"], "begun_seconds": clock["seconds"]}
    content = {"weights": weights, "average": weights, "optimizer": None, "clock": spent, "seed": clock["seed"]}
    save_file(state_path(run, stage), content)


class Trainer:
    """Trains one stage until its budget is spent or Ctrl-C is pressed; saves its state then and in between."""

    def __init__(
        self, run: TrainingRun, stage: TrainingStage, report: Report, between: Callable[[], None] = lambda: None
    ) -> None:
        """`between` is called before every step."""
        self.run, self.stage, self.report, self.between = run, stage, report, between
        self.weights = stage.modules.to(run.device)
        self.averaged = copy.deepcopy(self.weights).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.weights.parameters(), lr=stage.learning_rate, weight_decay=1e-3, fused=True
        )
        self.clock = _Clock()
        self._loss: Tensor | None = None
        """The mean of the last losses, on the device."""
        self._load()

    def train(self, budget: Budget) -> None:
        """Train until `budget` is spent.

        :raises KeyboardInterrupt: Ctrl-C was pressed; the state is saved.
        :raises FloatingPointError: the loss is not a number any more; the state is the last that was saved.
        """
        saved = reported = time.monotonic()
        since = copy.copy(self.clock)
        self.weights.train()
        try:
            while self.clock.progress(budget) < 1:
                began = time.monotonic()
                self.between()
                loss = self._step(self.clock.progress(budget))
                self._loss = loss if self._loss is None else torch.lerp(self._loss, loss, 0.02)
                now = time.monotonic()
                self.clock.seconds += now - began
                if self.clock.step % _CHECK_STEPS == 0:
                    self._check()
                if now - reported > 15:
                    self._report(budget, since)
                    since, reported = copy.copy(self.clock), now
                if now - saved > self.run.save_minutes * 60:
                    self.save()
                    saved = now
        except KeyboardInterrupt:
            self.save()
            raise
        self.save()
        self._report(budget, since)

    def _check(self) -> None:
        if self._loss is not None and not torch.isfinite(self._loss):
            raise FloatingPointError(
                f"the loss of {self.stage.name} is {self._loss.item()} at step {self.clock.step}; the last state stays."
            )

    def _step(self, progress: float) -> Tensor:
        clock = self.clock
        warmup = min(1.0, max((clock.step - clock.begun_step + 1) / _STEPS_PER_WARMUP, progress / _WARMUP))
        cosine = _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.rate * self.stage.learning_rate * warmup * cosine
        loss, samples = self.stage.loss(clock.step, progress)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.weights.parameters(), 1.0)
        self.optimizer.step()
        clock.step += 1
        clock.samples += samples
        self._average()
        return loss.detach()

    @torch.no_grad()
    def _average(self) -> None:
        """Update the moving average of the weights. It moves faster in the first steps, to forget the random start."""
        keep = min(self.stage.average, (1 + self.clock.step) / (10 + self.clock.step))
        pairs = zip(self.averaged.parameters(), self.weights.parameters(), strict=True)
        averaged, weights = zip(*pairs, strict=True)
        torch._foreach_lerp_(averaged, weights, 1 - keep)

    def _report(self, budget: Budget, since: _Clock) -> None:
        clock = self.clock
        spent = clock.seconds - since.seconds
        speed = (clock.samples - since.samples) / spent if spent else 0.0
        progress = clock.progress(budget)
        loss = math.nan if self._loss is None else self._loss.item()
        left = (clock.seconds - clock.begun_seconds) * (1 - progress) / progress / 60 if progress else math.inf
        self.report(
            f"{self.stage.name}: step {clock.step}, {clock.samples} samples, loss {loss:.4f}, {speed:.1f} samples/s, "
            f"{progress:.1%}, {max(left, 0):.0f} min left {self.stage.notes()}".rstrip()
        )

    def save(self) -> None:
        """Write weights, averaged weights, optimizer and clock; the old state stays until the new one is whole.

        :raises FloatingPointError: the weights are spoiled; the old state stays.
        """
        self._check()
        state = {
            "weights": self.weights.state_dict(),
            "average": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "clock": vars(self.clock),
            "seed": self.run.seed,
        }
        save_file(state_path(self.run, self.stage.name), state)

    def _load(self) -> None:
        path = state_path(self.run, self.stage.name)
        if not path.is_file():
            self.report(f"{self.stage.name}: starts ({sum(p.numel() for p in self.weights.parameters()):,} weights)")
            return
        state = torch.load(path, map_location=self.run.device, weights_only=True)
        if state["seed"] != self.run.seed:
            raise ValueError(
                f"{path} was trained with seed {state['seed']}, not {self.run.seed}; choose another folder."
            )
        self.weights.load_state_dict(state["weights"])
        self.averaged.load_state_dict(state["average"])
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.clock = _Clock(**state["clock"])
        self.report(f"{self.stage.name}: goes on at step {self.clock.step}")
