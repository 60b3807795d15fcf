"""The fields of an edit, with their ranges and defaults. No engine, no torch and no Triton here."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, cast

from typing_extensions import Self

from darkroom.diffusion.control import CONDITIONING_SCALE, require_order, share_field
from darkroom.diffusion.maps import MAPS, require_map
from darkroom.diffusion.schedulers import FLOW_SCHEDULERS, scheduler_name
from darkroom.errors import Conflict, InvalidInput
from darkroom.images import upright_size
from darkroom.request.field import Field
from darkroom.request.fields import SIDE_MINIMUM, check_pixels
from darkroom.request.image import CheckpointStepsField, ImageRequest

GUIDANCE_RANGE = (1.0, 10.0)
TRUE_GUIDANCE_SCALE = 4.0
STEPS = 50


def _side() -> Field:
    return Field(
        help="Of the result, in pixels. By default that of the first image.",
        low=SIDE_MINIMUM,
        high=lambda limits: limits.max_pixels // SIDE_MINIMUM,
    )


class EditRequest(ImageRequest):
    """One edit; what is not said here, as every request for images.

    A result is as large as the first image, to the pixel. Without a negative prompt there is no guidance: " " is one.
    """

    prompt: Annotated[
        str,
        Field(
            help='What to change. Several images are "Picture 1", "Picture 2" and so on, in their order.',
            longest="max_prompt",
            may_be_empty=True,
        ),
    ]
    negative_prompt: Annotated[
        str | None,
        Field(
            help="What not to show. Without it there is no guidance; a blank is enough for some.",
            longest="max_prompt",
            may_be_empty=True,
        ),
    ] = None
    images: Annotated[
        tuple[bytes, ...],
        Field(
            help="The images, in any format. The first one is changed; the others show what the prompt speaks of.",
            low=1,
            high="max_input_images",
            aliases=("image", "image_base64"),
            max_pixels="max_input_pixels",
        ),
    ]
    true_guidance_scale: Annotated[
        float,
        Field(
            help="How much the prompt counts against the negative prompt. 1: no guidance, in half the time. By default "
            "what suits the checkpoint.",
            low=GUIDANCE_RANGE[0],
            high=GUIDANCE_RANGE[1],
            aliases=("true_cfg_scale",),
            from_checkpoint=True,
        ),
    ] = TRUE_GUIDANCE_SCALE
    guidance_scale: Annotated[
        float,
        Field(
            help="For models with distilled guidance. The published ones have none, and it does nothing.",
            low=GUIDANCE_RANGE[0],
            high=GUIDANCE_RANGE[1],
        ),
    ] = 1.0
    steps: Annotated[int, CheckpointStepsField] = STEPS
    width: Annotated[int | None, _side()] = None
    height: Annotated[int | None, _side()] = None
    scheduler: Annotated[
        str | None,
        Field(
            help="By default the checkpoint's own.",
            words=tuple(FLOW_SCHEDULERS),
            convert=partial(scheduler_name, schedulers=FLOW_SCHEDULERS),
        ),
    ] = None
    mask: Annotated[
        bytes | None,
        Field(
            help="Where the first image is changed, in any format and size: where the mask is transparent; of a mask "
            "without transparency, where it is white. Pixels elsewhere stay as they are, byte for byte.",
            max_pixels="max_input_pixels",
        ),
    ] = None
    align: Annotated[
        bool, Field(help="Whether the result is moved by the few pixels by which the model shifts its content.")
    ] = True

    make_map: Annotated[
        str | None,
        Field(
            help="A map that is made of the first image, for the ControlNet of a checkpoint that has one; others see "
            "it as one more image behind the others. depth and keypoints need a model, which the installation names.",
            words=MAPS,
        ),
    ] = None
    control_image: Annotated[
        bytes | None,
        Field(
            help="A map that the result follows through the checkpoint's ControlNet: edges, depth, keypoints or a "
            "sketch, in any format and size. It is laid over the first image.",
            max_pixels="max_input_pixels",
        ),
    ] = None
    controlnet_conditioning_scale: Annotated[float, CONDITIONING_SCALE] = 1.0
    control_guidance_start: Annotated[float, share_field("from")] = 0.0
    control_guidance_end: Annotated[float, share_field("up to")] = 1.0

    @property
    def guided(self) -> bool:
        """Whether there is true classifier-free guidance: as in diffusers, not without a negative prompt."""
        return self.negative_prompt is not None and self.true_guidance_scale > 1

    @property
    def cost_label(self) -> str:
        several = f"{len(self.images)} images" if len(self.images) > 1 else ""
        controlled = "controlled" if self.control_image is not None else ""
        return f"{several} {controlled}".strip()

    @property
    def control_details(self) -> dict[str, Any]:
        """What the details of an image say of its ControlNet."""
        return {
            "controlnet_conditioning_scale": self.controlnet_conditioning_scale,
            "control_guidance_start": self.control_guidance_start,
            "control_guidance_end": self.control_guidance_end,
        }

    def checked(self, limits: Any) -> Self:
        require_order(self.control_guidance_start, self.control_guidance_end)
        if self.control_image is not None and self.make_map is not None:
            raise InvalidInput("make_map and control_image exclude each other; got both.", param="make_map")
        if self.make_map is not None:
            setting = type(limits).variable(f"{self.make_map}_model")
            require_map(self.make_map, limits.map_models, setting, "make_map")
        first = upright_size(self.images[0], max_pixels=limits.max_input_pixels, param="images")
        given = bool(self.width or self.height)
        whole = super().checked(limits)._sized(first)
        size = whole.width or 0, whole.height or 0
        if given:
            check_pixels(*size, limits)
        if self.mask is not None and size != first:
            raise InvalidInput(
                f"mask needs a result as large as the first image, {first[0]}x{first[1]}; got {size[0]}x{size[1]}.",
                param="mask",
            )
        return whole

    def completed(self, checkpoint: Any, limits: Any) -> ResolvedEdit:
        """This request for a checkpoint.

        :raises InvalidInput: it has more images than the checkpoint reads.
        :raises Conflict: it has an image for a ControlNet, and the checkpoint has none.
        """
        if self.control_image is not None and not checkpoint.controlnet:
            setting = type(limits).variable("controlnet")
            raise Conflict(
                f"control_image: {checkpoint.name} has no ControlNet; {setting} names one.", param="control_image"
            )
        made = self.make_map is not None and not checkpoint.controlnet
        count = len(self.images) + made
        if count > checkpoint.most_images:
            own = ", the map that is made included" if made else ""
            one = "one image at a time" if checkpoint.most_images == 1 else f"at most {checkpoint.most_images} images"
            raise InvalidInput(
                f"images: {checkpoint.name} edits {one}; got {count}{own}. Several need a checkpoint of the plus "
                "models, such as Qwen-Image-Edit-2509.",
                param="images",
            )
        return self.resolved_as(ResolvedEdit)

    def _sized(self, first: tuple[int, int]) -> Self:
        """This request with the width and the height that its first image gives it, in its proportions where one of
        them is given. They do not count as given: an image may be larger than what may be asked for.

        :param first: width and height of the first image.
        """
        width, height = first
        if self.width or self.height:
            width, height = (
                self.width or max(1, round((self.height or 0) * width / height)),
                self.height or max(1, round((self.width or 0) * height / width)),
            )
        values = {**dict(self), "width": width, "height": height}
        return cast(Self, self.model_construct(_fields_set=set(self.model_fields_set), **values))


class ResolvedEdit(EditRequest):
    """An edit with all values filled in; only `scheduler`, `negative_prompt`, `mask`, `make_map` and `control_image`
    may be None."""

    width: Annotated[int, _side()]
    height: Annotated[int, _side()]
