"""What the loop needs beside the networks: pipeline.json and the tokenizer."""

from __future__ import annotations

import math
from typing import Any

from darkroom.diffusion.checkpoint import FILE_NAME
from darkroom.diffusion.schedulers import is_flow
from darkroom.pipelines.qwen_edit.checkpoint import TOKENIZER_NAME, QwenEditCheckpointInfo
from darkroom.pipelines.qwen_edit.request import GUIDANCE_RANGE, TRUE_GUIDANCE_SCALE
from exporters import manifest
from exporters.checkpoints import components, preview, tokenizers
from exporters.checkpoints.components import SCHEDULER, weights_digest
from exporters.checkpoints.files import read_json
from exporters.checkpoints.latent_diffusion import generation_files, generation_value, read_scheduler
from exporters.checkpoints.tokenizers import ODD_TEXTS
from exporters.errors import ExportError
from exporters.export import ModelExport, install
from exporters.files import sha256
from exporters.manifest import Manifest
from exporters.merged_lora import ROLE, LoraFile
from exporters.qwen_edit import weights
from exporters.tasks import Stage

STAGES = ("read weights", "convert tokenizer", "fit preview", "install")
STEPS = {False: 50, True: 40}
"""Of diffusers' examples, for checkpoints that are not plus and those that are."""
CONDITION_AREA = 384 * 384
REFERENCE_AREA = 1024 * 1024
DROPPED_TOKENS = 64
"""Values of diffusers 0.42, pipelines/qwenimage/pipeline_qwenimage_edit.py and pipeline_qwenimage_edit_plus.py."""
IMAGE_TOKEN = "<|image_pad|>"
LIGHTNING_SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": math.log(3),
    "invert_sigmas": False,
    "max_image_seq_len": 8192,
    "max_shift": math.log(3),
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
_AREAS = (32.0**2, 4096.0**2)
_MODULES = (
    "exporters.checkpoints.preview",
    "exporters.checkpoints.tokenizers",
    "exporters.qwen_edit.graphs",
    "exporters.qwen_edit.pipeline",
    "exporters.merged_lora",
)


def current_hash(lora: LoraFile | None = None) -> str:
    """The hash of everything that shapes the files."""
    return manifest.code_hash(_MODULES, *([str(lora.steps)] if lora else []))


def export(wanted: ModelExport, stage: Stage, lora: LoraFile | None = None) -> Manifest:
    """Write the files. `stage` is called with each of STAGES as it begins.

    :param lora: is part of the transformer.
    :raises ExportError: the checkpoint is unfit.
    """
    from exporters.qwen_edit import graphs  # torch: what is up to date needs none

    stage("read weights")
    checkpoint = weights.read_checkpoint(wanted.checkpoint.root)
    vae = weights.load_vae(weights.VAE, checkpoint.parts[weights.VAE])
    stage("convert tokenizer")
    tokenizer = convert_tokenizer(checkpoint)
    stage("fit preview")
    fit = preview.fit_to(graphs.ServedVaeEncoder(vae), graphs.ServedVaeDecoder(vae))
    transformer = checkpoint.parts[weights.TRANSFORMER]
    source = wanted.checkpoint.source(
        (
            *transformer.files,
            *checkpoint.parts[weights.VAE].files,
            SCHEDULER,
            weights.PROCESSOR,
            *generation_files(checkpoint.root),
            *tokenizers.present(checkpoint.root, checkpoint.tokenizer),
        )
    )
    stage("install")
    digest, sources = weights_digest(transformer, source), {"checkpoint": source}
    if lora:
        sources[ROLE] = lora.source()
        digest = sha256(f"{digest} {components.digest(sources[ROLE])}".encode())
    if weights.CONTROLNET in wanted.beside:
        controlnet = wanted.beside[weights.CONTROLNET]
        sources[weights.CONTROLNET] = controlnet.source(weights.read_controlnet(controlnet.root, transformer).files)
    facts = QwenEditCheckpointInfo(
        name=f"{wanted.checkpoint.title}+{lora.title}" if lora else wanted.checkpoint.title,
        digest=digest[:10],
        latent_rgb=fit.matrix,
        controlnet=wanted.beside[weights.CONTROLNET].title if weights.CONTROLNET in wanted.beside else "",
        **{**sampling_of(checkpoint), **(lightning(lora.steps) if lora and lora.steps else {})},
    )
    return install(
        wanted,
        {TOKENIZER_NAME: tokenizer.encode(), FILE_NAME: facts.to_json().encode()},
        exporter=current_hash(lora),
        sources=sources,
        max_error=fit.error,
        error_share=1.0,
    )


def sampling_of(checkpoint: weights.QwenEditCheckpoint) -> dict[str, Any]:
    """The fields of a `QwenEditCheckpointInfo` that decide how edits are made.

    generation_config.json may say `steps`, `true_guidance_scale`, `condition_area` and `reference_area`.

    :raises ExportError: the scheduler is none of flow matching, or a number is out of its range.
    """
    root, plus = checkpoint.root, checkpoint.plus
    scheduler = read_scheduler(root)
    if not is_flow(scheduler):
        raise ExportError(f"{root.name}/{SCHEDULER} names no scheduler of flow matching.")
    reference = int(generation_value(root, "reference_area", REFERENCE_AREA, _AREAS))
    condition = int(generation_value(root, "condition_area", CONDITION_AREA, _AREAS))
    return {
        "side": round(math.sqrt(reference)),
        "scheduler": scheduler,
        "plus": plus,
        "steps": int(generation_value(root, "steps", STEPS[plus], (1, 1000))),
        "true_guidance_scale": generation_value(root, "true_guidance_scale", TRUE_GUIDANCE_SCALE, GUIDANCE_RANGE),
        "condition_area": condition if plus else reference,
        "reference_area": reference,
        "image_processor": read_json(root, weights.PROCESSOR),
        "image_token": IMAGE_TOKEN,
        "dropped_tokens": DROPPED_TOKENS,
    }


def lightning(steps: int) -> dict[str, Any]:
    """The fields of a `QwenEditCheckpointInfo` that a LoRA of Lightning decides: few steps without guidance.

    Values of its authors: https://github.com/ModelTC/Qwen-Image-Lightning, generate_with_diffusers.py.
    """
    return {"scheduler": LIGHTNING_SCHEDULER, "steps": steps, "true_guidance_scale": 1.0}


def convert_tokenizer(checkpoint: weights.QwenEditCheckpoint) -> str:
    """The content of the tokenizer's file, which is compared with transformers' own on odd texts.

    :raises ExportError: it is damaged, or `tokenizers` reads the result differently.
    """
    folder = checkpoint.tokenizer
    original = tokenizers.load(folder, "Qwen2Tokenizer", folder.name)
    plain = tokenizers.plain(original)
    if plain.token_to_id(IMAGE_TOKEN) is None:
        raise ExportError(f"{checkpoint.root.name}/{folder.name} has no token {IMAGE_TOKEN}.")
    texts = [*ODD_TEXTS, f"<|im_start|>user\n<|vision_start|>{IMAGE_TOKEN * 3}<|vision_end|>a cat<|im_end|>\n"]
    theirs = original(texts)["input_ids"]
    tokenizers.require_same_tokens(folder.name, texts, [plain.encode(text).ids for text in texts], theirs)
    return plain.to_str()
