"""Measures how many held-out edits of each mode succeed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.edit_modes.modes import MODES
from darkroom.files import write_atomically
from training.card import ADHERENCE, write_cards
from training.demo.qwen_edit.cases import Case, unseen_cases
from training.demo.qwen_edit.judge import Verdict, judge
from training.demo.qwen_edit.pictures import Pixels, draw
from training.demo.qwen_edit.pipeline import edit
from training.demo.qwen_edit.sentences import random_sentence
from training.measure import Measurement, framed, load_pipeline, psnr, weights_digest, write_sheet
from training.trainer import Report

_SHOWN = 2
"""Edits of each mode on the sheet, each as two tiles: the first picture that is given, and the result."""


def measure_edits(settings: Measurement, report: Report, modes: Iterable[int] = MODES) -> dict[str, Any]:
    """Make edits of each mode, a quarter of the settings' prompts, and judge them.

    Writes adherence.json and adherence.jpg beside the checkpoint, and updates its card.
    """
    folder, each = settings.folder, max(settings.prompts // 4, 1)
    pipeline = load_pipeline(settings.family, folder).to(settings.device)
    groups: dict[str, dict[str, int]] = {}
    misses, tiles, errors = [], [], []
    for mode in modes:
        cases = unseen_cases(each, mode)
        sentences = [random_sentence(random.Random(settings.seed + number), case) for number, case in enumerate(cases)]
        made = [
            edit(
                pipeline,
                tuple(draw(picture) for picture in case.given),
                sentence,
                steps=settings.steps,
                guidance=settings.scale,
                seed=settings.seed + number,
            )
            for number, (case, sentence) in enumerate(zip(cases, sentences, strict=True))
        ]
        verdicts = [judge(case, picture) for case, picture in zip(cases, made, strict=True)]
        decoded = _through_vae(pipeline.vae, [draw(case.wanted) for case in cases])
        errors.append(psnr([draw(case.wanted) for case in cases], decoded))
        right = sum(verdict.right for verdict in verdicts)
        kept = sum(judge(case, picture).right for case, picture in zip(cases, decoded, strict=True))
        groups[f"mode_{mode}"] = {"prompts": each, "holds": right, "vae": kept}
        report(f"mode {mode}: {right} of {each}")
        rows = list(zip(cases, sentences, made, verdicts, strict=True))
        misses += [_miss(case, asked, verdict) for case, asked, _, verdict in rows if not verdict.right]
        for case, _, picture, verdict in rows[:_SHOWN]:
            tiles += [framed(draw(case.given[0]), None), framed(picture, verdict.right)]
    result = {
        "weights": weights_digest(folder),
        "prompts": each * len(groups),
        "scheduler": type(pipeline.scheduler).__name__,
        "steps": settings.steps,
        "guidance": settings.scale,
        "seed": settings.seed,
        "precision": f"fp32 on {settings.device.type}",
        "groups": groups,
        "vae_psnr_db": round(float(np.mean(errors)), 2),
        "misses": misses,
    }
    write_atomically(folder / ADHERENCE, (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    write_sheet(folder / "adherence.jpg", tiles)
    write_cards(settings.checkpoints)
    return result


def _miss(case: Case, sentence: str, verdict: Verdict) -> dict[str, Any]:
    """Describe why an edit failed."""
    seen = "nearest to the wanted one" if verdict.nearest == case.wanted else str(verdict.nearest)
    return {
        "mode": case.mode,
        "asked": sentence,
        "seen": seen,
        "explained": round(verdict.explained, 2),
        "moved": round(verdict.moved, 3),
    }


@torch.no_grad()
def _through_vae(vae: Any, pictures: list[Pixels]) -> list[Pixels]:
    """Encode and decode pictures with the VAE."""
    made = []
    for picture in pictures:
        frame: Tensor = torch.tensor(picture, device=vae.device).permute(2, 0, 1)[None, :, None] / 127.5 - 1
        decoded = vae.decode(vae.encode(frame).latent_dist.mode()).sample[0, :, 0]
        made.append(((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
    return made
