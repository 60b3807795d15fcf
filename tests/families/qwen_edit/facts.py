"""What an export writes for the loop about a checkpoint, of one that has no weights."""

from __future__ import annotations

from darkroom.pipelines.qwen_edit.checkpoint import QwenEditCheckpointInfo


def facts(*, plus: bool, steps: int = 40, scale: float = 3.0, controlnet: str = "") -> QwenEditCheckpointInfo:
    return QwenEditCheckpointInfo(
        name="tiny",
        digest="0123456789",
        side=64,
        scheduler={},
        latent_rgb=[],
        plus=plus,
        steps=steps,
        true_guidance_scale=scale,
        condition_area=56 * 56,
        reference_area=64 * 64,
        image_processor={},
        image_token="<|image_pad|>",
        dropped_tokens=64,
        controlnet=controlnet,
    )
