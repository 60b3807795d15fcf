"""AUTOMATIC1111's API: options, and lists of what there is."""

from __future__ import annotations

import asyncio
from typing import Any

import psutil
from fastapi import APIRouter, Request

from darkroom.devices import gpu_info
from darkroom.errors import InvalidInput, NotFound, NotReady
from proxy.documented import BODY, answers
from proxy.ignored import ignored, note
from proxy.sdapi import checkpoints, options, samplers, upscalers
from proxy.sdapi.answers import Empty, Flags, Items, Memory, Nothing, WebUiOptions
from proxy.sdapi.body import as_json, read_body
from proxy.sdapi.refusals import CHECKPOINT
from proxy.services import Use
from proxy.tasks.tasks import UseTasks

router = APIRouter(prefix="/sdapi/v1", tags=["web UIs"])

_ITEMS = answers(Items)


@router.get("/options", summary="Options", **answers(WebUiOptions, raises=(NotReady,)))
async def get_options(services: Use, tasks: UseTasks) -> dict[str, Any]:
    """The options of this caller: `sd_model_checkpoint` is a `title` of sd-models; others are as they were set."""
    return await options.shown(tasks, services)


@router.post("/options", summary="Set options", **answers(Nothing, raises=(*BODY, NotFound, NotReady)))
async def set_options(request: Request, services: Use, tasks: UseTasks) -> None:
    """`sd_model_checkpoint` chooses the model of this caller's later requests here. Other options are kept and do
    nothing."""
    sent = as_json(await read_body(request, services))
    if CHECKPOINT in sent and not isinstance(sent[CHECKPOINT], str | None):
        raise InvalidInput(f"{CHECKPOINT} must be text, a title of GET /sdapi/v1/sd-models.", param=CHECKPOINT)
    before = await options.shown(tasks, services)
    changed = {name: value for name, value in sent.items() if name not in before or before[name] != value}
    note(request, ignored(changed, (CHECKPOINT, options.HASH)))
    await options.store(tasks, services, {name: value for name, value in sent.items() if name != options.HASH})


@router.get("/sd-models", summary="Models", **_ITEMS)
async def sd_models(services: Use) -> list[dict[str, Any]]:
    """The models that make images of a text. `filename` is no path: files of the service stay its own."""
    return checkpoints.listed(services)


@router.get("/sd-vae", summary="VAEs", **_ITEMS)
async def sd_vae() -> list[dict[str, Any]]:
    """None can be chosen: each model has its own."""
    return []


@router.get("/samplers", summary="Samplers", **_ITEMS)
async def get_samplers(services: Use) -> list[dict[str, Any]]:
    """Those of all installed models. `aliases` are other names that requests may use."""
    return samplers.samplers(services)


@router.get("/schedulers", summary="Schedules of noise", **_ITEMS)
async def get_schedulers() -> list[dict[str, Any]]:
    """Automatic is what the web UI has as the usual one of a sampler, where it is there."""
    return samplers.schedules()


@router.get("/upscalers", summary="Upscalers", **_ITEMS)
async def get_upscalers(services: Use) -> list[dict[str, Any]]:
    """None, plain resizing, and the networks that are installed."""
    return upscalers.listed(services)


@router.get("/latent-upscale-modes", summary="Further names for hr_upscaler", **_ITEMS)
async def latent_upscale_modes() -> list[dict[str, Any]]:
    """They resize with Lanczos here."""
    return [{"name": name} for name in upscalers.LATENT_MODES]


@router.get("/loras", summary="LoRA files", **_ITEMS)
async def loras(services: Use) -> list[dict[str, Any]]:
    """The library; `name` is for prompts: `<lora:name:0.8>`. `path` is that below the folder of the library."""
    files = await asyncio.to_thread(services.loras.library.files)
    return [
        {"name": file.name, "alias": file.name.rpartition("/")[2], "path": f"{file.name}.safetensors", "metadata": {}}
        for file in files
    ]


@router.get("/hypernetworks", summary="Hypernetworks", **_ITEMS)
@router.get("/face-restorers", summary="Face restorers", **_ITEMS)
@router.get("/prompt-styles", summary="Styles", **_ITEMS)
@router.get("/script-info", summary="Arguments of scripts", **_ITEMS)
@router.get("/extensions", summary="Extensions", **_ITEMS)
async def nothing() -> list[dict[str, Any]]:
    """There are none."""
    return []


@router.get("/embeddings", summary="Textual inversions", **answers(Empty))
async def embeddings() -> dict[str, Any]:
    """There are none."""
    return {"loaded": {}, "skipped": {}}


@router.get("/scripts", summary="Scripts", **answers(Empty))
async def scripts() -> dict[str, Any]:
    """`controlnet` is read in `alwayson_scripts`."""
    return {"txt2img": ["controlnet"], "img2img": ["controlnet"]}


@router.post("/refresh-checkpoints", summary="Look for models", **answers(Nothing))
@router.post("/refresh-vae", summary="Look for VAEs", **answers(Nothing))
@router.post("/refresh-loras", summary="Look for LoRA files", **answers(Nothing))
async def refresh() -> None:
    """Does nothing: lists are always of what is there."""


@router.get("/memory", summary="Memory", **answers(Memory))
async def memory(services: Use) -> dict[str, Any]:
    """In bytes. `ram` is that of the machine. `cuda` is the memory of the GPUs together, or says why there is none."""
    ram = psutil.virtual_memory()
    gpus = await asyncio.to_thread(gpu_info, services.settings.num_gpus_to_use)
    told: dict[str, Any] = {"error": "unavailable: there is no GPU"}
    if gpus:
        used, total = (int(sum(gpu[name] for gpu in gpus) * (1 << 30)) for name in ("memory_reserved", "memory_total"))
        told = {"system": {"free": total - used, "used": used, "total": total}}
    return {"ram": {"free": ram.available, "used": ram.total - ram.available, "total": ram.total}, "cuda": told}


@router.get("/cmd-flags", summary="Command line options", **answers(Flags))
async def cmd_flags() -> dict[str, Any]:
    """Those of the web UI that have a meaning here."""
    return {"api": True, "nowebui": True, "lowvram": False, "medvram": False, "api_server_stop": False}
