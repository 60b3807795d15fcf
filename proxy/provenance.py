"""C2PA manifests: what made an image, signed with the certificate of the service's operator.

The manifest is the last thing that is written into an image: a text chunk behind it would break its hash. The library
is `c2pa-python`, of the extra `c2pa`. Specification: https://spec.c2pa.org/specifications/specifications/2.2/specs/C2PA_Specification.html
"""

from __future__ import annotations

import asyncio
import io
import logging
from pathlib import Path
from typing import Any

from darkroom import __version__, containers
from darkroom.errors import DarkroomError
from darkroom.request.request import Request
from darkroom.settings import Settings

log = logging.getLogger(__name__)

SIGNED = frozenset({"image/png", "image/jpeg", "image/webp"})
"""The media types that get a manifest; raw pixels have no place for one."""
_AGENT = {"name": "Darkroom", "version": __version__}
_TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_CREATED, _OPENED, _EDITED = "c2pa.created", "c2pa.opened", "c2pa.edited"
_PARENT = "parent"
_MODEL = "darkroom.model"
ORIGINALS = ("init_image", "image", "images")
"""Fields with the image that a request changes; of several the first one is changed."""
_OFFLINE = {
    # An image that somebody sends may name addresses, which the service must not call.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


class Provenance:
    """Signs images.

    :param certificates: the operator's certificate, and those of its issuers, as PEM.
    :param key: its private key, as PEM.
    :raises ValueError: they cannot be used; the message names C2PA_CERT or C2PA_KEY.
    """

    def __init__(self, certificates: bytes, key: bytes) -> None:
        import c2pa

        self._c2pa = c2pa
        self._signer = (algorithm_of(key), certificates, key)
        _require_pair(certificates, key)
        self._context = c2pa.Context.from_dict(_OFFLINE)
        try:
            self._new_signer().close()
        except c2pa.C2paError as error:
            raise ValueError(f"C2PA_CERT and C2PA_KEY cannot be used: {error}") from None

    @classmethod
    def of(cls, settings: Settings) -> Provenance | None:
        """Return what the settings ask for; None where images get no manifest.

        :raises ValueError: the extra is not installed, or the files cannot be used.
        """
        if settings.c2pa_cert is None or settings.c2pa_key is None:
            return None
        try:
            return cls(_read("C2PA_CERT", settings.c2pa_cert), _read("C2PA_KEY", settings.c2pa_key))
        except ImportError as error:
            raise ValueError(f"C2PA_CERT needs the extra c2pa, pip install 'darkroom[c2pa]': {error}") from None

    async def signed(
        self, image: bytes | memoryview, media_type: str, model: str, request: Request
    ) -> bytes | memoryview:
        """The image with a manifest, made in a thread; as it is where its type has no place for one.

        :param request: which made it. Of an image that it changes, the manifest has the hash and the manifest.
        :raises DarkroomError: it cannot be signed, so it must not be sent.
        """
        if media_type not in SIGNED:
            return image
        return await asyncio.to_thread(self._signed, image, media_type, model, original_of(request))

    def _signed(self, image: bytes | memoryview, media_type: str, model: str, original: bytes | None) -> bytes:
        try:
            if original is not None:
                try:
                    return self._sign(image, media_type, model, original)
                except self._c2pa.C2paError as error:
                    log.warning("the manifest does not have the original, which cannot be read for it: %s", error)
            return self._sign(image, media_type, model, None)
        except self._c2pa.C2paError as error:
            log.error("an image cannot be signed: %s", error)
            raise DarkroomError("The image cannot be signed; see the server's log for the reason.") from None

    def _sign(self, image: bytes | memoryview, media_type: str, model: str, original: bytes | None) -> bytes:
        """:raises C2paError: the image cannot be signed, or the original not be read."""
        made = {"digitalSourceType": _TRAINED, "softwareAgent": _AGENT, "parameters": {_MODEL: model}}
        actions: list[dict[str, Any]] = [{"action": _CREATED, **made}]
        if original is not None:
            opened = {"action": _OPENED, "parameters": {"ingredientIds": [_PARENT]}}
            actions = [opened, {"action": _EDITED, **made}]
        assertion = {"label": "c2pa.actions.v2", "data": {"actions": actions}}
        manifest = {"claim_generator_info": [_AGENT], "title": "image", "assertions": [assertion]}
        result = io.BytesIO()
        with self._c2pa.Builder(manifest, context=self._context) as builder, self._new_signer() as signer:
            if original is not None:
                ingredient = {"title": "original", "relationship": "parentOf", "label": _PARENT}
                kind = (containers.kind_of(original) or "").lower()
                builder.add_ingredient(ingredient, f"image/{kind}", io.BytesIO(original))
            builder.sign(signer, media_type, io.BytesIO(image), result)
        return result.getvalue()

    def _new_signer(self) -> Any:
        algorithm, certificates, key = self._signer
        return self._c2pa.Signer.from_info(self._c2pa.C2paSignerInfo(algorithm, certificates, key, None))


def original_of(request: Request) -> bytes | None:
    """The image that a request changes; None where it makes one of nothing but words and hints."""
    for name in ORIGINALS:
        value = getattr(request, name, None)
        value = value[0] if isinstance(value, tuple | list) and value else value
        if isinstance(value, bytes):
            return value
    return None


def algorithm_of(key: bytes) -> str:
    """C2PA's name of the algorithm that a private key signs with.

    :raises ValueError: it is no key in PEM without a password, or none that C2PA knows.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        loaded = load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("C2PA_KEY must be a private key as PEM, without a password.") from None
    if isinstance(loaded, ec.EllipticCurvePrivateKey) and loaded.curve.name in _CURVES:
        return _CURVES[loaded.curve.name]
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(loaded, rsa.RSAPrivateKey):
        return "ps256"
    raise ValueError("C2PA_KEY must be of P-256, P-384, P-521, Ed25519 or RSA.")


def _require_pair(certificates: bytes, key: bytes) -> None:
    """:raises ValueError: the first certificate is not that of the key; c2pa would sign, and no reader accept it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates

    try:
        first = load_pem_x509_certificates(certificates)[0]
    except (ValueError, IndexError):
        raise ValueError("C2PA_CERT and C2PA_KEY cannot be used: C2PA_CERT must be certificates as PEM.") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if first.public_key().public_bytes(*form) != load_pem_private_key(key, None).public_key().public_bytes(*form):
        raise ValueError("C2PA_KEY is not the key of C2PA_CERT, the first certificate in that file.")


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{setting} cannot be read: {error.strerror}: {path}") from None
