"""The check of finished images by a checkpoint's safety checker, which the content policy of a service asks for.

The fields are for callers of Triton: REST clients cannot set them, the proxy does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from darkroom.errors import ModerationBlocked
from darkroom.request.field import Field
from darkroom.request.request import Request
from darkroom.serving.networks import ENCODER_ROWS, Array, ModelSpec, Network, TensorSpec

NONE, REFUSE, BLANK = "none", "refuse", "blank"
CHECK_IMAGES, CHECK_RULE = "check_images", "check_rule"
FLAGGED = "flagged"
"""In the details of an image that is black in place of what was made."""
FEATURE = "checks_images"
"""The ability of a family whose models in a repository can check images, among `Family.features`."""


class CheckedRequest(Request):
    """A request whose images can be checked."""

    check_images: Annotated[
        str,
        Field(
            help="What becomes of images that the safety checker flags: none does not check them, refuse fails the "
            "request with moderation_blocked, blank sends a black image in place of each. There are no previews of "
            "images that are checked.",
            words=(NONE, REFUSE, BLANK),
            rest=False,
        ),
    ] = NONE
    check_rule: Annotated[
        str | None, Field(help="The rule of the content policy that asks for the check.", longest=64, rest=False)
    ] = None


def checker_spec(name: str) -> ModelSpec:
    """Return the network of a checkpoint's safety checker, which a repository has only where the checkpoint has it.

    :param name: of the model.
    """
    return ModelSpec(
        name=name,
        backend="onnxruntime",
        on_demand=True,
        inputs=(TensorSpec(name="image", dtype="UINT8", dims=(-1, -1, 3), help="RGB of any size"),),
        outputs=(
            TensorSpec(
                name="score",
                dtype="FP32",
                dims=(1,),
                help="the distance over the threshold of the nearest concept; an image is flagged above 0",
            ),
        ),
        max_batch_size=4,
        parameters=ENCODER_ROWS,
        files=("model.onnx",),
        canary=lambda: {"image": np.zeros((1, 64, 64, 3), np.uint8)},
    )


@dataclass(frozen=True, kw_only=True)
class ImageCheck:
    """The check of the images of one request.

    :param network: image (n, h, w, 3) uint8 -> score (n, 1).
    :param action: REFUSE or BLANK.
    :param rule: of the content policy.
    """

    network: Network
    action: str
    rule: str = ""

    async def __call__(self, images: Array) -> list[bool]:
        """Return which of the images are flagged.

        :param images: (n, h, w, 3) uint8.
        :raises ModerationBlocked: some are, and the request is to be refused.
        """
        scores = (await self.network({"image": images}))["score"][:, 0]
        flagged = [is_flagged(score) for score in scores.tolist()]
        if self.action == REFUSE and any(flagged):
            what = "The image was" if len(flagged) == 1 else f"{sum(flagged)} of {len(flagged)} images were"
            raise ModerationBlocked(
                f"{what} flagged by the safety checker. Try another prompt or another seed.", rule=self.rule
            )
        return flagged


def is_flagged(score: float) -> bool:
    """Whether the score of an image means that it is flagged; diffusers rounds scores to three digits."""
    return round(score, 3) > 0


def image_check(request: CheckedRequest, network: Network | None) -> ImageCheck | None:
    """Return the check that a request asks for.

    :param network: None where the checkpoint has no safety checker.
    :raises ModerationBlocked: it asks for one, and there is no safety checker.
    """
    if request.check_images == NONE:
        return None
    rule = request.check_rule or ""
    if network is None:
        raise no_checker(rule)
    return ImageCheck(network=network, action=request.check_images, rule=rule)


def no_checker(rule: str, model: str = "this model") -> ModerationBlocked:
    """Return the error of a request whose images have to be checked and cannot be."""
    return ModerationBlocked(
        f"The content policy wants every image checked, and the checkpoint of {model} has no safety checker.", rule=rule
    )
