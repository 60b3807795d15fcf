"""What browsers need to upscale by themselves: the networks' files, and how the server cuts images."""

from __future__ import annotations

from typing import Any

from darkroom.browser_networks import BrowserNetworks, NetworkFile
from darkroom.pipelines.upscale.catalogue import DEFAULT_MODEL, NETWORKS, UpscaleNetwork
from darkroom.pipelines.upscale.request import default_tile
from darkroom.pipelines.upscale.settings import Settings
from darkroom.registry import is_chosen
from darkroom.serving.model_config import on_cpu, read_config

_MB = 1024 * 1024


def browser_networks(service: Any) -> BrowserNetworks:
    """The files that lie here, are ONNX and no larger than UPSCALE_BROWSER_MAX_MB.

    :param service: the settings of the service.
    """
    limits = Settings.of(service)
    found = []
    for network in NETWORKS:
        path = service.model_repository / network.model_name / "1" / "model.onnx"
        file = NetworkFile.of(network.label, path, _facts(network, service, limits))
        if file is not None and file.bytes <= limits.browser_max_mb * _MB and is_chosen(network.model_name, service):
            found.append(file)
    facts = {
        "default_model": DEFAULT_MODEL,
        "tile_pad": limits.tile_pad,
        "max_pixels": limits.max_pixels,
        "max_output_pixels": limits.max_output_pixels,
    }
    return BrowserNetworks(facts=facts, files=found)


def _facts(network: UpscaleNetwork, service: Any, limits: Settings) -> dict[str, Any]:
    on_cpus = default_tile(limits, limits.tile_pad, network.window_cpu)
    config = read_config(service.model_repository / network.model_name)
    return {
        "family": network.family,
        "scale": network.scale,
        "title": network.title,
        "tile": on_cpus if config is None or on_cpu(config) else default_tile(limits, limits.tile_pad, None),
        "tile_cpu": on_cpus,
    }
