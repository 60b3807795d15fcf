"""Manifests of images, read with the library that verifiers use."""

from __future__ import annotations

import io
from typing import Any

import c2pa


def read_manifest(image: bytes, media_type: str, root: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The validation state, the active manifest, and all manifests by their labels.

    :param root: the certificate that is trusted, as PEM.
    """
    settings = {"trust": {"trust_anchors": root}, "verify": {"verify_trust": True, "remote_manifest_fetch": False}}
    context = c2pa.Context.from_dict(settings)
    with c2pa.Reader(media_type, io.BytesIO(image), context=context) as reader:
        state, active = reader.get_validation_state(), reader.get_active_manifest()
        return str(state), dict(active or {}), reader._get_cached_manifest_data()["manifests"]


def actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The actions of a manifest."""
    (found,) = (one["data"]["actions"] for one in manifest["assertions"] if one["label"].startswith("c2pa.actions"))
    return list(found)
