"""Edits of a transformer that is divided over two ranks, in the whole service: as those of one device, also when a rank
is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.contract.editing import OTHER, PHOTO, form
from tests.contract.generating import first
from tests.parallel_models import own_temporary_folder, private_folders, wait_gone
from tests.pictures import distance, pixels
from tests.service import RunningService, link_models, running_service

FIELDS: dict[str, Any] = {"num_inference_steps": "4", "mode": None}
IMAGES = (("images", PHOTO), ("images", OTHER))


def edited(service: RunningService) -> np.ndarray[Any, Any]:
    with httpx.Client(base_url=service.url, timeout=300) as http:
        return pixels(first(form("/edit", http, IMAGES, **FIELDS)))


@pytest.mark.heavy
def test_edits_on_two_ranks_are_those_of_one_device(qwen_edit_repository: Path, tmp_path: Path) -> None:
    network = "qwen_edit_transformer"
    models = link_models(
        tmp_path / "models", *(model.name for model in qwen_edit_repository.iterdir()), source=qwen_edit_repository
    )
    settings = {"qwen_edit_device_type": "cpu", "qwen_edit_devices": "0,1", "canary_interval": 3600}
    with own_temporary_folder():
        with running_service(tmp_path, model_repository=models, **settings) as service:
            state = httpx.get(f"{service.url}/status", timeout=60).json()["models"][network]["ranks"]
            assert (state["mode"], state["healthy"], state["tp"], state["ep"]) == ("distributed", 2, 2, 1)
            divided = edited(service)
            ranks = service.find("-m darkroom.parallel.rank ")
            assert len(ranks) == 2
            ranks[1].kill()
            alone = edited(service)
            assert not wait_gone(ranks)
            state = httpx.get(f"{service.url}/status", timeout=60).json()["models"][network]["ranks"]
            assert (state["mode"], state["healthy"]) == ("single", 0)
        assert not private_folders()
    assert distance(divided, alone) <= 2
