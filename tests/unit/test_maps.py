"""Maps of an image: what edges and sketches show, depth and keypoints by models, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
)
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from darkroom.diffusion.maps import load_maps, require_map
from darkroom.diffusion.maps.keypoints import drawn
from darkroom.errors import Conflict
from darkroom.images import Pixels

NONE = {"depth": None, "keypoints": None}


def square() -> Pixels:
    """A dark square on light grey, 60 high and 80 wide; even but for its edge."""
    image = np.full((60, 80, 3), 200, np.uint8)
    image[20:40, 30:60] = 60
    return image


def test_map_of_edges_is_white_where_the_image_changes() -> None:
    edges = load_maps(NONE)["edges"](square())
    assert edges.shape == (60, 80, 3)
    assert set(np.unique(edges)) == {0, 255}
    rows, columns = np.nonzero(edges[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((20, 40, 30, 60), abs=2)
    assert not edges[26:34, 36:54].any()


def test_map_of_a_sketch_has_lines_on_white_at_the_darker_side() -> None:
    sketch = load_maps(NONE)["sketch"](square())
    assert sketch.shape == (60, 80, 3)
    assert (sketch[:14] == 255).all()
    assert (sketch[26:34, 36:54] == 255).all()
    assert sketch[30, 30, 0] < 160
    assert sketch[30, 29, 0] == 255


def test_maps_by_models_are_refused_without_one() -> None:
    assert set(load_maps(NONE)) == {"edges", "sketch"}
    require_map("edges", NONE, "DEPTH", "make_map")
    with pytest.raises(Conflict, match="make_map: depth needs a model, and MY_DEPTH_MODEL names none here"):
        require_map("depth", NONE, "MY_DEPTH_MODEL", "make_map")
    with pytest.raises(OSError, match="nothing"):
        load_maps({**NONE, "depth": "/nothing/here"})


def test_map_of_depth_is_that_of_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32, patch_size=14, neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16, head_hidden_size=8,
    )  # fmt: skip
    model = DepthAnythingForDepthEstimation(config).eval()
    model.save_pretrained(tmp_path)
    processor = DPTImageProcessorPil(size={"height": 56, "width": 56}, do_resize=True, ensure_multiple_of=14)
    processor.save_pretrained(tmp_path)
    depth = load_maps({**NONE, "depth": str(tmp_path)})["depth"](square())
    assert depth.shape == (60, 80, 3)
    assert (depth.min(), depth.max()) == (0, 255)
    with torch.no_grad():
        theirs = model(**processor(images=square(), return_tensors="pt", input_data_format="channels_last"))
    near = torch.nn.functional.interpolate(theirs.predicted_depth[None], (60, 80), mode="bicubic")[0, 0].numpy()
    assert np.corrcoef(near.ravel(), depth[..., 0].ravel())[0, 1] > 0.99


def test_map_of_keypoints_draws_what_the_heat_shows() -> None:
    heat = np.zeros((17, 12, 9), np.float32)
    heat[5, 3, 2], heat[7, 9, 2] = 0.9, 0.9  # left shoulder and elbow
    heat[6, 3, 6] = 0.1  # too faint
    made = drawn(heat, 90, 120, np.zeros((120, 90, 3), np.uint8))
    shoulder, elbow = made[35, 25], made[95, 25]
    assert shoulder.any()
    assert elbow.any()
    assert made[65, 25].any(), "the bone between them"
    assert not made[:, 40:].any()


def test_map_of_keypoints_is_as_large_as_the_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = VitPoseBackboneConfig(
        image_size=[64, 48],
        patch_size=[16, 16],
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        mlp_ratio=2,
    )
    model = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=17))
    model.save_pretrained(tmp_path)
    made = load_maps({**NONE, "keypoints": str(tmp_path)})["keypoints"](square())
    assert (made.shape, made.dtype) == ((60, 80, 3), np.uint8)
