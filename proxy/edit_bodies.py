"""The request bodies of the editing endpoints, for `/openapi.json`; see `proxy.bodies`."""

from __future__ import annotations

from dataclasses import replace

from darkroom.edit_modes.modes import MODE_RANGE
from proxy.body_fields import JSON, MULTIPART, URLENCODED, Fields, Schema, body_of, tiny_png
from proxy.operations.edit import CONTROL_IMAGE, IMAGES, MODE, ModeFields
from proxy.surfaces.edit import EDIT_IN_MODE, EDIT_JSON, EDIT_MULTI


def in_modes(of: Fields) -> Fields:
    """Add the fields of the modes to those of a family."""
    return replace(
        of,
        kinds=[*of.kinds, ModeFields],
        images=[*of.images, (CONTROL_IMAGE,)],
        ranges={**of.ranges, MODE: MODE_RANGE},
    )


def edit_bodies(of: Fields) -> dict[tuple[str, str], Schema]:
    """Return the body of each endpoint, by method and path.

    :param of: the fields of the family.
    """
    others = [names for names in of.images if not set(names) & set(of.one_of)]
    alone = EDIT_JSON.image
    encoded = replace(of, images=[(alone,), *others], image_lists={}, one_of=[alone])
    encoded = replace(encoded, example={alone: tiny_png(), **_without_image(of)})
    several = replace(of, images=others, one_of=[IMAGES])
    most = float(EDIT_MULTI.most or 1)
    three = replace(several, image_lists={IMAGES: (1, most)}, example={})
    modes = replace(in_modes(several), required=EDIT_IN_MODE.required, example={})
    both = (JSON, MULTIPART, URLENCODED)
    return {
        ("post", "/edit"): body_of(in_modes(of), *both),
        ("post", "/edit/json"): body_of(encoded, *both),
        ("post", "/edit/multi"): body_of(three, *both),
        ("post", "/multi-image-editing"): body_of(modes, *both),
    }


def _without_image(of: Fields) -> dict[str, object]:
    return {name: value for name, value in of.example.items() if name not in of.one_of}
