"""Tiny HiDream transformers for the tests of their distribution, and what the ranks of one leave behind."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from diffusers import HiDreamImageTransformer2DModel
from torch import Tensor

from darkroom.parallel.processes import is_alive
from darkroom.parallel.ranks import PREFIX

T5, LLAMA, POOLED, CHANNELS = 24, 16, 20, 4
LAYERS = 3
"""Of Llama."""


def write_transformer(folder: Path, **changes: Any) -> Path:
    """A model with both kinds of block and four experts, 0.7 million parameters; the same weights every time."""
    settings: dict[str, Any] = {
        "patch_size": 2,
        "in_channels": CHANNELS,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "caption_channels": [T5, LLAMA],
        "text_emb_dim": POOLED,
        "num_routed_experts": 4,
        "num_activated_experts": 2,
        "axes_dims_rope": (2, 2, 4),
        "max_resolution": (16, 16),
        "llama_layers": [0, 2, 1, 2],
    }
    torch.manual_seed(0)
    model = HiDreamImageTransformer2DModel(**{**settings, **changes})
    for name, parameter in model.named_parameters():
        if "rms_norm" in name:  # ones by default, which would not show a wrong part of them
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    return folder


def make_inputs(rows: int, height: int, width: int, *, tokens: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """For `predict`: every row has its own timestep. Height and width are in latents."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "hidden_states": noise(rows, CHANNELS, height, width),
        "timesteps": torch.linspace(999, 20, rows),
        "encoder_hidden_states_t5": noise(rows, tokens, T5),
        "encoder_hidden_states_llama3": noise(rows, LAYERS, tokens, LLAMA),
        "pooled_embeds": noise(rows, POOLED),
    }


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, by the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@contextlib.contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Temporary files, also of processes that are started, go into a folder of our own: in the common one other tests,
    and services, have their ranks' folders. It is a short one, as the paths of sockets have to be."""
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


def private_folders() -> set[Path]:
    """Of leaders that run, or that left something behind."""
    return set(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))


def ranks_below(leader: psutil.Process | None = None) -> list[psutil.Process]:
    """torchrun and the ranks that a process, by default this one, has started. A test run has other children, too: a
    service that serves tests of the whole session runs until its end."""
    found: list[psutil.Process] = []
    for child in (leader or psutil.Process()).children():
        with contextlib.suppress(psutil.Error):
            if "darkroom.parallel.launch" in child.cmdline():
                found += [child, *child.children(recursive=True)]
    return found


def wait_gone(processes: Iterable[psutil.Process], timeout: float = 60) -> list[psutil.Process]:
    """The processes that are still there after `timeout` seconds."""
    left, deadline = list(processes), time.monotonic() + timeout
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [process for process in left if is_alive(process)]
    return left
