"""Sizes that compiled engines of this family take: images of 64 to 1024 pixels a side, prompts of 1 to 4 chunks.

The small class is timed for the 512 x 512 images of Turbo checkpoints, the large one for the 1024 x 1024 images of the
others. It holds everything up to that size in any shape, and starts as low as the small one, because a wide image is
small along one side only.
"""

from __future__ import annotations

from collections.abc import Mapping

from darkroom.pipelines.sdxl import networks
from darkroom.pipelines.sdxl.checkpoint import VAE_SCALE_FACTOR
from darkroom.profiles import Axis, EngineSizes, Range, SizeClass

CHUNK = 77
"""Tokens of a chunk of a prompt, begin and end included."""
MAX_CHUNKS = 4

_LATENTS = (None, Axis(name="height", step=VAE_SCALE_FACTOR), Axis(name="width", step=VAE_SCALE_FACTOR))
_PIXELS = (Axis(name="height"), Axis(name="width"), None)
_SMALL = Range(minimum=64, optimum=512, maximum=512)
_LARGE = Range(minimum=64, optimum=1024, maximum=1024)
_TOKENS = Range(minimum=CHUNK, optimum=CHUNK, maximum=MAX_CHUNKS * CHUNK)


def _classes(small_batch: int, large_batch: int) -> tuple[SizeClass, ...]:
    """For the usual batches of the two classes."""
    return tuple(
        SizeClass(name=name, batch=batch, ranges={"height": side, "width": side, "tokens": _TOKENS})
        for name, batch, side in (("up to 512", small_batch, _SMALL), ("up to 1024", large_batch, _LARGE))
    )


_UNET_AXES: dict[str, tuple[Axis | None, ...]] = {
    "latents": _LATENTS,
    "timestep": (None,),
    "prompt_embeds": (Axis(name="tokens"), None),
    "text_embeds": (None,),
    "time_ids": (None,),
}
_UNET = EngineSizes(axes=_UNET_AXES, classes=_classes(4, 2))
_CONTROL_UNET = EngineSizes(
    axes={**_UNET_AXES, "control_image": _PIXELS, "controlnet_conditioning_scale": (None,)}, classes=_classes(4, 2)
)
_ONE_CHUNK = SizeClass(name="one chunk", batch=2, ranges={"tokens": Range(minimum=CHUNK, optimum=CHUNK, maximum=CHUNK)})

SIZES: Mapping[str, EngineSizes] = {
    **{
        spec.name: EngineSizes(axes={"input_ids": (Axis(name="tokens"),)}, classes=(_ONE_CHUNK,))
        for spec in networks.TEXT_ENCODERS
    },
    networks.UNET.name: _UNET,
    **{spec.name: _CONTROL_UNET for spec in networks.CONTROL_UNETS.values()},
    networks.REFINER_UNET.name: _UNET,
    networks.VAE_ENCODER.name: EngineSizes(axes={"image": _PIXELS}, classes=_classes(1, 1)),
    networks.VAE_DECODER.name: EngineSizes(axes={"latents": _LATENTS}, classes=_classes(1, 1)),
}
