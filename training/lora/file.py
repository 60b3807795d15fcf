"""The finished LoRA as a file: diffusers' layout, with the metadata that web UIs read. The same run, the same bytes.

Metadata: `ss_*` of kohya's trainer (https://github.com/kohya-ss/sd-scripts), ModelSpec
(https://github.com/Stability-AI/ModelSpec), and PEFT's config as diffusers keeps it, which has the alpha: diffusers'
reader accepts no tensors for it in this layout.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from training.lora.adapter import TARGETS
from training.lora.captions import tags, trigger_words
from training.lora.family import LoraFamily
from training.lora.objective import EPSILON, MIN_SNR_GAMMA
from training.lora.plan import Plan
from training.lora.prior import PRIOR_WEIGHT

_COMPONENT = "unet"
_LENGTH_BYTES = 8


def lora_file(
    weights: Mapping[str, Tensor], plan: Plan, family: LoraFamily, *, prediction: str, title: str, losses: list[float]
) -> bytes:
    """The safetensors file of a LoRA.

    :param weights: by their names in the UNet; see `adapter.weights_of`.
    :param prediction: what the UNet predicts; see `Objective.prediction`.
    :param title: of the LoRA, for people.
    :param losses: of all steps.
    """
    named = {f"{_COMPONENT}.{name}": weight for name, weight in weights.items()}
    data = save(named)
    start = int.from_bytes(data[:_LENGTH_BYTES], "little") + _LENGTH_BYTES
    digest = hashlib.sha256(memoryview(data)[start:]).hexdigest()
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(_adapter(plan), sort_keys=True)}
    metadata |= _model_spec(plan, family, prediction, title, digest) | _kohya(plan, family, title, losses)
    return _with_metadata(data, metadata)


def _adapter(plan: Plan) -> dict[str, Any]:
    """PEFT's config under the name of the component."""
    config = {"r": plan.request.rank, "lora_alpha": plan.request.used_alpha, "target_modules": sorted(TARGETS)}
    return {f"{_COMPONENT}.{name}": value for name, value in config.items()}


def _model_spec(plan: Plan, family: LoraFamily, prediction: str, title: str, digest: str) -> dict[str, str]:
    side = plan.request.resolution
    moment = datetime.fromtimestamp(plan.started_at, timezone.utc).isoformat(timespec="seconds")
    found = {
        "sai_model_spec": "1.0.0",
        "architecture": family.architecture,
        "implementation": "diffusers",
        "title": title,
        "date": moment,
        "resolution": f"{side}x{side}",
        "trigger_phrase": ", ".join(trigger_words(_captions(plan))),
        "prediction_type": "epsilon" if prediction == EPSILON else "v",
        "hash_sha256": f"0x{digest}",
    }
    return {f"modelspec.{name}": value for name, value in found.items() if value}


def _kohya(plan: Plan, family: LoraFamily, title: str, losses: list[float]) -> dict[str, str]:
    options, side = plan.request, plan.request.resolution
    found: dict[str, Any] = {
        "base_model_version": family.base_version,
        "network_module": "networks.lora",
        "network_dim": options.rank,
        "network_alpha": options.used_alpha,
        "output_name": title,
        "sd_model_name": Path(plan.checkpoint).name,
        "resolution": f"({side}, {side})",
        "bucket_info": json.dumps(_buckets(plan)),
        "tag_frequency": json.dumps({"images": tags(_captions(plan))}, ensure_ascii=False),
        "num_train_images": len(plan.examples),
        "num_reg_images": options.prior_images,
        "prior_loss_weight": PRIOR_WEIGHT,
        "num_epochs": plan.epochs,
        "epoch": plan.epochs,
        "steps": plan.steps,
        "max_train_steps": plan.steps,
        "batch_size_per_device": options.batch_size,
        "learning_rate": options.learning_rate,
        "unet_lr": options.learning_rate,
        "text_encoder_lr": "None",
        "lr_scheduler": "constant",
        "optimizer": "torch.optim.adamw.AdamW",
        "min_snr_gamma": MIN_SNR_GAMMA,
        "seed": options.seed,
        "cache_latents": True,
        "gradient_checkpointing": True,
        "training_started_at": plan.started_at,
        "loss": f"{sum(losses) / len(losses):.6g}" if losses else "None",
    }
    return {f"ss_{name}": str(value) for name, value in found.items()}


def _buckets(plan: Plan) -> dict[str, Any]:
    counts = Counter(example.fit.size for example in plan.examples)
    sizes = [{"resolution": list(size), "count": count} for size, count in sorted(counts.items())]
    return {"buckets": {str(index): one for index, one in enumerate(sizes)}}


def _captions(plan: Plan) -> list[str]:
    return [example.caption for example in plan.examples]


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with metadata. The library writes them in the order of a hash table, which differs between
    processes; here they are sorted."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
    whole = {"__metadata__": dict(sorted(metadata.items())), **dict(sorted(header.items()))}
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + data[_LENGTH_BYTES + length :]
