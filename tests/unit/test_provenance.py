"""C2PA manifests in images, read with the library's own reader."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from darkroom.errors import DarkroomError
from darkroom.images import MEDIA_TYPES, Picture, encode
from darkroom.parameters import read_image, text_chunks
from darkroom.png import make_chunk
from darkroom.registry import families
from darkroom.settings import Settings
from proxy.provenance import ORIGINALS, Provenance, algorithm_of
from supervisor.errors import SetupError
from supervisor.preflight import preflight
from tests.certificates import Certificates, make_certificates
from tests.manifests import actions, read_manifest

TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
DETAILS: dict[str, Any] = {"prompt": "a cät", "seed": 7, "steps": 3, "width": 64, "height": 64, "model": "painter"}
DETAILS |= {"negative_prompt": "", "scheduler": "ddim", "guidance_scale": 2.0, "model_hash": "0" * 10, "index": 0}
DETAILS |= {"version": "1"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def provenance(certificates: Certificates) -> Provenance:
    made = Provenance.of(Settings(_env_file=None, c2pa_cert=certificates.cert, c2pa_key=certificates.key))
    assert made is not None
    return made


class _Request:
    """The fields of a request that the manifest reads."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def signed(provenance: Provenance, made: bytes, media_type: str, model: str = "painter", **fields: Any) -> bytes:
    request: Any = _Request(**fields)
    return bytes(asyncio.run(provenance.signed(made, media_type, model, request)))


def picture(format: str, size: int = 64) -> bytes:
    """An image as the pipelines write it, with its parameters."""
    noise = np.random.default_rng(3).integers(0, 255, (size, size, 3), dtype=np.uint8)
    return encode(Picture(rgb=noise), format=format, quality=90, text=text_chunks(DETAILS))  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_manifest_says_what_made_the_image(provenance: Provenance, certificates: Certificates, format: str) -> None:
    media_type = MEDIA_TYPES[format]
    image = signed(provenance, picture(format), media_type)
    state, manifest, _ = read_manifest(image, media_type, certificates.root)
    assert state == "Trusted"
    (action,) = actions(manifest)
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", TRAINED)
    assert (action["softwareAgent"]["name"], action["parameters"]) == ("Darkroom", {"darkroom.model": "painter"})
    assert manifest["signature_info"]["common_name"] == "Test operator"


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_image_keeps_its_parameters_and_pixels_beside_the_manifest(provenance: Provenance, format: str) -> None:
    plain = picture(format)
    image = signed(provenance, plain, MEDIA_TYPES[format])
    assert read_image(image).details == DETAILS
    assert Image.open(io.BytesIO(image)).tobytes() == Image.open(io.BytesIO(plain)).tobytes()


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_changed_byte_is_found(provenance: Provenance, certificates: Certificates, format: str) -> None:
    image = bytearray(signed(provenance, picture(format), MEDIA_TYPES[format]))
    found = {"png": b"IDAT", "jpeg": b"\xff\xda", "webp": b"VP8 "}[format]
    image[image.index(found) + 40] ^= 1  # a pixel
    state, _, _ = read_manifest(bytes(image), MEDIA_TYPES[format], certificates.root)
    assert state == "Invalid"


def test_text_behind_the_manifest_breaks_it(provenance: Provenance, certificates: Certificates) -> None:
    image = signed(provenance, picture("png"), "image/png")
    end = image.rindex(b"IEND") - 4
    changed = image[:end] + make_chunk(b"tEXt", b"parameters\0another cat") + image[end:]
    assert read_manifest(changed, "image/png", certificates.root)[0] == "Invalid"


@pytest.mark.parametrize("field", ["init_image", "image", "images"])
def test_edited_image_names_its_original(provenance: Provenance, certificates: Certificates, field: str) -> None:
    first = signed(provenance, picture("png"), "image/png")
    fields = {field: (first, picture("png", 32)) if field == "images" else first}
    image = signed(provenance, picture("webp", 128), "image/webp", model="enlarger", **fields)
    state, manifest, all_of_them = read_manifest(image, "image/webp", certificates.root)
    assert state == "Trusted"
    opened, edited = actions(manifest)
    assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
    assert (edited["digitalSourceType"], edited["parameters"]) == (TRAINED, {"darkroom.model": "enlarger"})
    (ingredient,) = manifest["ingredients"]
    assert ingredient["relationship"] == "parentOf"
    assert actions(all_of_them[ingredient["active_manifest"]])[0]["parameters"] == {"darkroom.model": "painter"}


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF"])
def test_original_may_be_of_any_format(provenance: Provenance, certificates: Certificates, format: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format)
    image = signed(provenance, picture("png"), "image/png", image=file.getvalue())
    state, manifest, _ = read_manifest(image, "image/png", certificates.root)
    assert (state, actions(manifest)[-1]["action"]) == ("Trusted", "c2pa.edited")


def test_original_with_a_damaged_manifest_costs_no_answer(provenance: Provenance, certificates: Certificates) -> None:
    damaged = bytearray(signed(provenance, picture("png"), "image/png"))
    begin = damaged.index(b"caBX") + 60
    damaged[begin : begin + 400] = bytes(400)
    image = signed(provenance, picture("png"), "image/png", image=bytes(damaged))
    assert read_manifest(image, "image/png", certificates.root)[0] in ("Trusted", "Valid")


def test_control_image_is_no_original(provenance: Provenance, certificates: Certificates) -> None:
    image = signed(provenance, picture("png"), "image/png", control_image=picture("png"), init_image=None)
    assert [one["action"] for one in actions(read_manifest(image, "image/png", certificates.root)[1])] == [
        "c2pa.created"
    ]


def test_fields_with_originals_are_those_of_the_families() -> None:
    """A new image field of a family has to be named as an original, or here as none."""
    hints = {"control_image", "mask"}
    there = {
        name
        for family in families().values()
        for name in [*family.request.image_fields(), *family.request.image_list_fields()]
    }
    assert there - hints == set(ORIGINALS)


def test_raw_pixels_stay_as_they_are(provenance: Provenance) -> None:
    assert signed(provenance, b"pixels", MEDIA_TYPES["raw"]) == b"pixels"


def test_image_that_cannot_be_signed_is_not_sent(provenance: Provenance) -> None:
    with pytest.raises(DarkroomError, match="cannot be signed"):
        signed(provenance, b"no image", "image/png")


def test_settings_of_certificates_are_checked(certificates: Certificates, tmp_path: Path) -> None:
    assert Provenance.of(Settings(_env_file=None)) is None
    with pytest.raises(ValidationError, match="C2PA_KEY is missing"):
        Settings(_env_file=None, c2pa_cert=certificates.cert)
    with pytest.raises(ValidationError, match="must be a file that is there"):
        Settings(_env_file=None, c2pa_cert=tmp_path / "none.pem", c2pa_key=certificates.key)
    with pytest.raises(ValueError, match="C2PA_KEY must be a private key"):
        algorithm_of(b"nothing")
    with pytest.raises(ValueError, match="C2PA_CERT and C2PA_KEY cannot be used"):
        Provenance(b"nothing", certificates.key.read_bytes())
    other = make_certificates(tmp_path)
    unfit = Settings(_env_file=None, c2pa_cert=certificates.cert, c2pa_key=other.key)
    with pytest.raises(SetupError, match="C2PA_KEY is not the key of C2PA_CERT"):
        preflight(unfit)
    with pytest.raises(ValueError, match="C2PA_KEY is not the key of C2PA_CERT"):
        Provenance(certificates.cert.read_bytes(), other.key.read_bytes())
