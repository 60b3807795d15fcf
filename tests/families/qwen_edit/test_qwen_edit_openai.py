"""What `POST /v1/images/edits` makes of a request where a model for editing is installed. Nothing runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.errors import InvalidInput
from proxy.openai.calls import EDITS, GENERATIONS, Endpoint, ImagesCall, checked_call, read_body
from tests.contract.editing import OTHER, PHOTO
from tests.families.qwen_edit.services import services_of, write_checkpoint
from tests.openai_requests import multipart
from tests.pictures import encoded

Parts = Sequence[tuple[str, str | bytes]]
PROMPT = ("prompt", "make it red")
MASK = encoded(Image.new("RGBA", (96, 80), (0, 0, 0, 0)))


def call_of(folder: Path, parts: Parts, *, plus: bool = True, endpoint: Endpoint = EDITS) -> ImagesCall:
    write_checkpoint(folder, plus=plus)

    async def run() -> ImagesCall:
        async with services_of(folder) as services:
            request = multipart(parts)
            return await checked_call(request, services, endpoint, await read_body(request, services, endpoint))

    return asyncio.run(run())


def test_edit_of_several_images(tmp_path: Path) -> None:
    call = call_of(tmp_path, [("image[]", PHOTO), ("image[]", OTHER), PROMPT, ("n", "6"), ("seed", "7")])
    assert call.model.family.operation == "edit"
    requests: list[Any] = [job.request for job in call.jobs]
    assert [(one.seed, one.num_images) for one in requests] == [(7, 4), (11, 2)]
    assert requests[0].images == (PHOTO, OTHER)
    assert (requests[0].width, requests[0].height, requests[0].negative_prompt) == (96, 80, " ")
    assert call.tokens.image == 6 * 5 + 4 * 4


def test_size_of_an_edit(tmp_path: Path) -> None:
    sized: Any = call_of(tmp_path / "a", [("image", PHOTO), PROMPT, ("size", "101x67")]).jobs[0].request
    assert (sized.width, sized.height) == (101, 67)
    parts: Parts = [("image", PHOTO), ("mask", MASK), PROMPT, ("size", "512x512")]
    masked: Any = call_of(tmp_path / "b", parts).jobs[0].request
    assert (masked.width, masked.height, masked.mask) == (96, 80, MASK)
    with pytest.raises(InvalidInput, match="as large as the first image"):
        call_of(tmp_path / "c", [*parts, ("strict_size", "true")])


@pytest.mark.parametrize(
    ("parts", "plus", "param", "words"),
    [
        ([("image", PHOTO)] * 6 + [PROMPT], True, "image", "1 to 5 images; got 6"),
        ([("image", PHOTO)] * 2 + [PROMPT], False, "image", "reads one image; got 2"),
        ([("image", PHOTO), PROMPT, ("model", "qwen_edit"), ("n", "0")], True, "n", "from 1 to 10"),
        ([("image[]", PHOTO), ("image[]", b"no"), PROMPT], True, "image[1]", "not an image"),
    ],
)
def test_edit_is_refused(tmp_path: Path, parts: Parts, plus: bool, param: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(words)) as refused:
        call_of(tmp_path, parts, plus=plus)
    assert refused.value.param == param


def test_model_for_editing_does_not_generate(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is for edit, and not for generate"):
        call_of(tmp_path, [PROMPT, ("model", "qwen_edit")], endpoint=GENERATIONS)
