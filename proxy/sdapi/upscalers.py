"""The upscalers of this service as AUTOMATIC1111's, and images that are enlarged by them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from darkroom.errors import InvalidInput, TooLarge
from darkroom.images import upright_size
from darkroom.request.fields import shown
from darkroom.request.request import Request
from proxy.models import ServedModel, default_model, installed
from proxy.operations.taking import take
from proxy.operations.upscaling import run
from proxy.policy.judging import facts_of, judged, lowered
from proxy.sdapi.fields import LARGEST_SCALE
from proxy.sdapi.images import Size, fitted, scaled_size
from proxy.sdapi.refusals import by_their_names
from proxy.services import Services

NONE, LANCZOS, NEAREST = "None", "Lanczos", "Nearest"
_PLAIN = (NONE, LANCZOS, NEAREST)
LATENT_MODES = (
    "Latent",
    *(f"Latent ({way})" for way in ("antialiased", "bicubic", "bicubic antialiased", "nearest", "nearest-exact")),
)
"""What `hr_upscaler` may be besides the upscalers. The web UI resizes latents there; here it is Lanczos."""
_TITLES = {
    "x4plus": "R-ESRGAN 4x+",
    "x4plus-anime": "R-ESRGAN 4x+ Anime6B",
    "animevideov3": "R-ESRGAN AnimeVideo",
}
"""The web UI's names of networks that it has as well."""
_NETWORK = "model"


def listed(services: Services) -> list[dict[str, Any]]:
    """The upscalers, as the web UI lists them."""
    plain = [_described(name, None, 1.0 if name == NONE else 4.0) for name in _PLAIN]
    return plain + [_described(title_of(name), name, 4.0) for name in _networks(services)]


def _described(name: str, network: str | None, scale: float) -> dict[str, Any]:
    return {"name": name, "model_name": network, "model_path": None, "model_url": None, "scale": scale}


def _networks(services: Services) -> tuple[str, ...]:
    """The names of the networks without those that differ by their scale alone; none without an upscaler."""
    there = installed(services, "upscale")
    if not there:
        return ()
    words = there[0].family.request.fields()[_NETWORK].allowed_words()
    return tuple(word for word in words if not any(word != other and word.startswith(f"{other}-x") for other in words))


def title_of(upscaler: str) -> str:
    """The web UI's name of an upscaler, as `chosen_upscaler` gives it."""
    return _TITLES.get(upscaler, upscaler)


def chosen_upscaler(services: Services, name: str, *, param: str, others: tuple[str, ...] = ()) -> str:
    """The upscaler of a name in any case: one of `NONE`, `LANCZOS`, `NEAREST` or `others`, or the name of a network.

    :raises InvalidInput: there is none; names `param`.
    """
    networks = _networks(services)
    titles = {title_of(network).lower(): network for network in networks}
    known = {plain.lower(): plain for plain in (*_PLAIN, *others)} | {one: one for one in networks} | titles
    found = known.get(name.strip().lower() or NONE.lower())
    if found is None:
        names = ", ".join([*_PLAIN, *others, *(title_of(network) for network in networks)])
        raise InvalidInput(f"{param} must be one of {names}; got {shown(name)}.", param=param)
    return found


@dataclass(frozen=True, kw_only=True)
class Enlargement:
    """One image to be enlarged.

    :param upscaler: as `chosen_upscaler` gives it.
    :param own: its size, and `scaled` the new one in the same proportions, of which `size` is cut out.
    :param most: pixels of a result.
    :param request: of the network; None where none runs.
    """

    upscaler: str
    image: bytes
    own: Size
    scaled: Size
    size: Size
    most: int
    model: ServedModel
    request: Request | None = None


async def enlargement(
    services: Services, upscaler: str, image: bytes | str, *, param: str, sizes: Callable[[Size], tuple[Size, Size]]
) -> Enlargement:
    """Check an image that a client sent to be enlarged.

    :param image: its bytes, or base64.
    :param param: the field that it came in.
    :param sizes: gives `scaled` and `size` of the size of the image.
    :raises DarkroomError: the image, the scale or the size of the result is refused.
    """
    model = default_model(services, "upscale")
    with by_their_names({"file": param, "image": param}):
        taken = await take(services, model, {"file": image}, judge=False)
        found = await enlargement_of(services, upscaler, taken.images["image"].data, param=param, sizes=sizes)
    if upscaler != NONE:
        await require_scale(services, upscaler, found.own, found.scaled, param=param)
    return found


async def enlargement_of(
    services: Services, upscaler: str, image: bytes, *, param: str, sizes: Callable[[Size], tuple[Size, Size]]
) -> Enlargement:
    """As `enlargement`, of an image that was made here; the content policy is not asked."""
    model = default_model(services, "upscale")
    limits = model.limits(services)
    own = await asyncio.to_thread(upright_size, image, max_pixels=limits.max_pixels)
    scaled, size = sizes(own)
    found = Enlargement(
        upscaler=upscaler, image=image, own=own, scaled=scaled, size=size, most=limits.max_output_pixels, model=model
    )
    if upscaler != NONE:
        check_size(services, own, scaled, param)
    scale = _scale(own, scaled)
    if not is_network(upscaler) or scale <= 1:
        return found
    model.require_ready(services)
    return replace(found, request=model.parse(services, {"image": image, _NETWORK: upscaler, "scale": scale}))


async def require_scale(services: Services, upscaler: str, own: Size, scaled: Size, *, param: str) -> None:
    """Judge an image that is to be resized, by a network or without one.

    :param param: the field that asks for it.
    :raises ModerationBlocked, InvalidInput: the content policy refuses it, or lowers it, which cannot be done here.
    """
    width, height = scaled
    facts = facts_of("upscale", upscaler, width=width, height=height, scale=max(1.0, _scale(own, scaled)))
    for cut in (await judged(services, facts)).cuts:
        if cut.name == "scale":
            raise InvalidInput(f"{param} asks for too much: {lowered(cut)['message']}", param=param)


def _scale(own: Size, scaled: Size) -> float:
    return max(scaled[0] / own[0], scaled[1] / own[1])


def is_network(upscaler: str) -> bool:
    """Whether a model has to run for it."""
    return upscaler not in (*_PLAIN, *LATENT_MODES)


def check_size(services: Services, own: Size, scaled: Size, param: str) -> None:
    """Check the size of a result.

    :raises InvalidInput: it is more than LARGEST_SCALE times as large as the image.
    :raises TooLarge: it has more pixels than are made here.
    """
    (width, height), most = scaled, default_model(services, "upscale").limits(services).max_output_pixels
    scale = _scale(own, scaled)
    if scale > LARGEST_SCALE:
        raise InvalidInput(
            f"{param}: an image can be made at most {LARGEST_SCALE:g} times as large; {own[0]}x{own[1]} to "
            f"{width}x{height} is {scale:,.4g} times.",
            param=param,
        )
    if width * height > most:
        raise TooLarge(
            f"{param}: the result would have {width}x{height} = {width * height:,} pixels; at most {most:,} are made.",
            param=param,
        )


async def enlarged(
    services: Services, wanted: Enlargement, report: Callable[[int, int], None] = lambda done, total: None
) -> bytes:
    """The enlarged image as PNG; for `NONE` in its own size.

    :param report: is told of finished tiles and of all tiles.
    """
    most = max(wanted.own[0] * wanted.own[1], 2 * wanted.most)
    if wanted.upscaler == NONE:
        return await asyncio.to_thread(fitted, wanted.image, wanted.own, wanted.own, max_pixels=most)
    data = wanted.image
    if wanted.request is not None:
        data = bytes((await run(services, wanted.model, wanted.request, report)).data)
        if wanted.scaled == wanted.size == upright_size(data, max_pixels=most):
            return data
    nearest = wanted.upscaler == NEAREST
    return await asyncio.to_thread(fitted, data, wanted.scaled, wanted.size, max_pixels=most, nearest=nearest)


def by_scale(scale: float) -> Callable[[Size], tuple[Size, Size]]:
    """Sizes of an image that is enlarged by a factor."""
    return lambda own: (scaled_size(own, scale),) * 2


def to_size(size: Size, *, crop: bool) -> Callable[[Size], tuple[Size, Size]]:
    """Sizes of an image that is made to cover `size`, and cut to it where `crop` is true."""

    def sizes(own: Size) -> tuple[Size, Size]:
        scaled = scaled_size(own, max(size[0] / own[0], size[1] / own[1]))
        return scaled, size if crop else scaled

    return sizes
