"""AUTOMATIC1111's API with the client `sd-backend-client`."""

from __future__ import annotations

import pytest

from tests.contract.web_uis import LONG, SMALL, mask
from tests.pictures import photo
from tests.service import RunningService
from tests.waiting import until

pytest.importorskip("sd_backend_client", reason="it needs Python 3.11")
from sd_backend_client import A1111Webservice, DiffusionRequestBody, GenerationStatus


@pytest.fixture
def backend(service: RunningService) -> A1111Webservice:
    return A1111Webservice(service.url)


def test_sd_backend_client_makes_and_changes_images(backend: A1111Webservice) -> None:
    assert {option.name for option in backend.list_samplers()} >= {"euler", "euler_ancestral", "dpmpp_2m"}
    checkpoint = backend.list_checkpoints()[0].name
    body = DiffusionRequestBody(**SMALL, sd_model_name=checkpoint, n_iter=2, sampler="euler", scheduler="normal")
    made = backend.submit_txt2img(body).wait(timeout=60)
    assert [image.size for image in made.images] == [(64, 64)] * 2
    assert made.seeds == [7, 8]
    changes = DiffusionRequestBody(**SMALL, init_images=[photo(150, 30, 64, 64)], mask=mask(), denoising_strength=0.6)
    changed = backend.submit_inpaint(changes).wait(timeout=60)
    assert changed.images[0].size == (64, 64)
    assert backend.submit_upscale(photo(0, 0, 20, 16), 60, 48).wait(timeout=60).images[0].size == (60, 48)
    assert backend.get_config()["sd_model_checkpoint"].startswith(checkpoint)
    assert {option.name for option in backend.list_upscalers()} >= {"Lanczos", "R-ESRGAN 4x+"}
    capabilities = backend.get_capabilities()
    assert capabilities.scheduler
    assert not capabilities.interrogate


def test_sd_backend_client_interrupts(backend: A1111Webservice) -> None:
    handle = backend.submit_txt2img(DiffusionRequestBody(**LONG, sampler="euler", scheduler="karras"))
    until(lambda: (handle.poll().progress or 0) > 0)
    assert handle.poll().status is GenerationStatus.ACTIVE
    assert handle.cancel()
    assert until(lambda: handle.poll().status.is_terminal)
    assert handle.poll().status is GenerationStatus.CANCELLED
    assert until(lambda: backend.progress_check().state.job_count == 0)
