"""Fields of requests, for the types and the help of this client.

Written by `python -m darkroom.client_types`; change the fields in `darkroom/pipelines`, not this file.
"""
# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from .models import ImageInput

Format = Literal["png", "webp", "jpeg"]


class GenerateOptions(TypedDict, total=False):
    """Fields of `generate`; None leaves the choice to the service.

    :param negative_prompt: What not to show.
    :param steps: Denoising steps. By default what suits the checkpoint.
    :param guidance_scale: 1 and below: no guidance, in half the time. By default what the checkpoint asks for,
        else 7.5.
    :param seed: Of the first image; the k-th has seed + k. Random if absent or -1.
    :param width: In pixels. By default the side that the checkpoint was trained at.
    :param height: In pixels. By default the side that the checkpoint was trained at.
    :param num_images: How many images.
    :param scheduler: By default the checkpoint's own. The names of web UIs and of diffusers are understood, too.
    :param preview_every: Steps between previews in a stream of events; 0 for none.
    :param format: How the images are encoded.
    :param quality: 1 to 100, of WebP and JPEG.
    :param init_image: An image to be changed, in any format. It is resized to width and height, which by default
        are its own, rounded down to what the checkpoint can make.
    :param mask: Where init_image is painted again, in any format and size: where the mask is transparent; of a
        mask without transparency, where it is white.
    :param strength: How much of init_image is changed: the share of the steps that are done. 1 is all of it; 0
        only encodes and decodes it. Without init_image it does nothing.
    :param loras: LoRAs with their weights: a JSON list of objects with `name`, `session_id` or `digest` (SHA-256
        of the file), `weight` (-10 to 10, default 1), `weights_by_step`, and `start` and `end` (shares of the
        steps). Triton takes digests alone.
    :param control_type: How the reference image steers.
    :param control_image: The reference image, in any format. Without one, the fields of the control do nothing.
    :param control_preprocess: Whether the map is made of the reference image. False: it is a map already.
    :param low_threshold: Of Canny's edges: the lower one of two thresholds.
    :param high_threshold: Of Canny's edges: the upper one of two thresholds.
    :param controlnet_conditioning_scale: How strongly the reference image steers.
    :param control_guidance_start: The share of the steps from which the ControlNet acts.
    :param control_guidance_end: The share of the steps up to which the ControlNet acts.
    :param refiner_start: The share of the noise schedule after which the refiner takes over, without guidance. 1
        leaves the refiner out. It does nothing where no refiner is installed.
    :param original_width: Micro-conditioning: the width in pixels that a training image like this one had before
        it was resized. By default width.
    :param original_height: Micro-conditioning: the height in pixels that a training image like this one had
        before it was resized. By default height.
    :param crop_top: Micro-conditioning: pixels that were cut off above. Above 0 the objects are cut off more
        often.
    :param crop_left: Micro-conditioning: pixels that were cut off on the left. Above 0 the objects are cut off
        more often.
    :param target_width: Micro-conditioning: the width in pixels that a training image like this one had after it
        was cropped. By default width.
    :param target_height: Micro-conditioning: the height in pixels that a training image like this one had after
        it was cropped. By default height.
    :param aesthetic_score: Micro-conditioning of the refiner: how beautiful the image is to be.
    :param max_sequence_length: Maximum number of tokens that each encoder reads of a prompt; some encoders have a
        lower limit.
    :param model: Which model; a name that the service lists under /models.
    """

    model: str | None
    negative_prompt: str | None
    steps: int | None
    guidance_scale: float | None
    seed: int | None
    width: int | None
    height: int | None
    num_images: int | None
    scheduler: str | None
    preview_every: int | None
    format: Format | None
    quality: int | None
    init_image: ImageInput | None
    mask: ImageInput | None
    strength: float | None
    loras: Sequence[Mapping[str, Any]] | str | None
    control_type: str | None
    control_image: ImageInput | None
    control_preprocess: bool | None
    low_threshold: int | None
    high_threshold: int | None
    controlnet_conditioning_scale: float | None
    control_guidance_start: float | None
    control_guidance_end: float | None
    refiner_start: float | None
    original_width: int | None
    original_height: int | None
    crop_top: int | None
    crop_left: int | None
    target_width: int | None
    target_height: int | None
    aesthetic_score: float | None
    max_sequence_length: int | None


class EditOptions(TypedDict, total=False):
    """Fields of `edit`; None leaves the choice to the service.

    :param negative_prompt: What not to show. Without it there is no guidance; a blank is enough for some.
    :param steps: Denoising steps. By default what suits the checkpoint.
    :param guidance_scale: For models with distilled guidance. The published ones have none, and it does nothing.
    :param seed: Of the first image; the k-th has seed + k. Random if absent or -1.
    :param width: Of the result, in pixels. By default that of the first image.
    :param height: Of the result, in pixels. By default that of the first image.
    :param num_images: How many images.
    :param scheduler: By default the checkpoint's own.
    :param preview_every: Steps between previews in a stream of events; 0 for none.
    :param format: How the images are encoded.
    :param quality: 1 to 100, of WebP and JPEG.
    :param true_guidance_scale: How much the prompt counts against the negative prompt. 1: no guidance, in half
        the time. By default what suits the checkpoint.
    :param mask: Where the first image is changed, in any format and size: where the mask is transparent; of a
        mask without transparency, where it is white. Pixels elsewhere stay as they are, byte for byte.
    :param align: Whether the result is moved by the few pixels by which the model shifts its content.
    :param make_map: A map that is made of the first image, for the ControlNet of a checkpoint that has one;
        others see it as one more image behind the others. depth and keypoints need a model, which the
        installation names.
    :param control_image: A map that the result follows through the checkpoint's ControlNet: edges, depth,
        keypoints or a sketch, in any format and size. It is laid over the first image.
    :param controlnet_conditioning_scale: How strongly the reference image steers.
    :param control_guidance_start: The share of the steps from which the ControlNet acts.
    :param control_guidance_end: The share of the steps up to which the ControlNet acts.
    :param model: Which model; a name that the service lists under /models.
    """

    model: str | None
    negative_prompt: str | None
    steps: int | None
    guidance_scale: float | None
    seed: int | None
    width: int | None
    height: int | None
    num_images: int | None
    scheduler: str | None
    preview_every: int | None
    format: Format | None
    quality: int | None
    true_guidance_scale: float | None
    mask: ImageInput | None
    align: bool | None
    make_map: str | None
    control_image: ImageInput | None
    controlnet_conditioning_scale: float | None
    control_guidance_start: float | None
    control_guidance_end: float | None


class UpscaleOptions(TypedDict, total=False):
    """Fields of `upscale`; None leaves the choice to the service.

    :param model: The network.
    :param scale: How much larger, 1 to 8. By default the network's own scale, 4; where it is another one, a
        resize follows.
    :param tile: Longest side of a tile in pixels, or 0 for no tiling. By default UPSCALE_TILE, or on a CPU less.
    :param tile_pad: Pixels around a tile that are computed twice. By default UPSCALE_TILE_PAD.
    :param format: Of the result; raw are bare rows.
    :param quality: 1 to 100, of WebP and JPEG.
    """

    model: str | None
    scale: float | None
    tile: int | None
    tile_pad: int | None
    format: Format | None
    quality: int | None


class TrainOptions(TypedDict, total=False):
    """Fields of `train`; None leaves the choice to the service.

    :param steps: Optimizer steps. By default `epochs` passes over all images.
    :param epochs: Passes over all images, where `steps` is absent.
    :param batch_size: Images of a step.
    :param learning_rate: Of AdamW; it stays the same.
    :param rank: Of the low-rank matrices.
    :param alpha: The change is scaled by alpha / rank. By default `rank`.
    :param resolution: Images are resized to about this many pixels squared, with their aspect ratio. By default
        the side that the checkpoint was trained at.
    :param seed: Of noise, timesteps, the order of the images and the first weights. Random if absent or -1.
    :param prior_images: Images that the checkpoint makes of `prior_prompts` before the training. Each step then
        learns from as many of them as of the session's images, so that other prompts change less.
    :param prior_prompts: What `prior_images` show, in turn: other things that the checkpoint draws well, in the
        words of its users.
    :param sample_images: Images that the served model makes with the LoRA after each epoch, or after fewer of
        many epochs, as results of the task. By default one of each of `sample_prompts`.
    :param sample_prompts: Of `sample_images`, in turn. By default the captions of the session's images.
    """

    steps: int | None
    epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    rank: int | None
    alpha: float | None
    resolution: int | None
    seed: int | None
    prior_images: int | None
    prior_prompts: Sequence[str] | str | None
    sample_images: int | None
    sample_prompts: Sequence[str] | str | None


GENERATE_IMAGES: tuple[str, ...] = ("init_image", "mask", "control_image")
"""The fields that hold images."""

EDIT_IMAGES: tuple[str, ...] = ("mask", "control_image")
"""The fields that hold images."""

HELP: dict[str, dict[str, str]] = {
    "generate": {
        "negative_prompt": "What not to show.",
        "steps": "Denoising steps. By default what suits the checkpoint.",
        "guidance_scale": "1 and below: no guidance, in half the time. By default what the checkpoint asks for, else 7.5.",
        "seed": "Of the first image; the k-th has seed + k. Random if absent or -1.",
        "width": "In pixels. By default the side that the checkpoint was trained at.",
        "height": "In pixels. By default the side that the checkpoint was trained at.",
        "num_images": "How many images.",
        "scheduler": "By default the checkpoint's own. The names of web UIs and of diffusers are understood, too.",
        "preview_every": "Steps between previews in a stream of events; 0 for none.",
        "format": "How the images are encoded.",
        "quality": "1 to 100, of WebP and JPEG.",
        "init_image": "An image to be changed, in any format. It is resized to width and height, which by default are its own, rounded down to what the checkpoint can make.",
        "mask": "Where init_image is painted again, in any format and size: where the mask is transparent; of a mask without transparency, where it is white.",
        "strength": "How much of init_image is changed: the share of the steps that are done. 1 is all of it; 0 only encodes and decodes it. Without init_image it does nothing.",
        "loras": "LoRAs with their weights: a JSON list of objects with `name`, `session_id` or `digest` (SHA-256 of the file), `weight` (-10 to 10, default 1), `weights_by_step`, and `start` and `end` (shares of the steps). Triton takes digests alone.",
        "control_type": "How the reference image steers.",
        "control_image": "The reference image, in any format. Without one, the fields of the control do nothing.",
        "control_preprocess": "Whether the map is made of the reference image. False: it is a map already.",
        "low_threshold": "Of Canny's edges: the lower one of two thresholds.",
        "high_threshold": "Of Canny's edges: the upper one of two thresholds.",
        "controlnet_conditioning_scale": "How strongly the reference image steers.",
        "control_guidance_start": "The share of the steps from which the ControlNet acts.",
        "control_guidance_end": "The share of the steps up to which the ControlNet acts.",
        "refiner_start": "The share of the noise schedule after which the refiner takes over, without guidance. 1 leaves the refiner out. It does nothing where no refiner is installed.",
        "original_width": "Micro-conditioning: the width in pixels that a training image like this one had before it was resized. By default width.",
        "original_height": "Micro-conditioning: the height in pixels that a training image like this one had before it was resized. By default height.",
        "crop_top": "Micro-conditioning: pixels that were cut off above. Above 0 the objects are cut off more often.",
        "crop_left": "Micro-conditioning: pixels that were cut off on the left. Above 0 the objects are cut off more often.",
        "target_width": "Micro-conditioning: the width in pixels that a training image like this one had after it was cropped. By default width.",
        "target_height": "Micro-conditioning: the height in pixels that a training image like this one had after it was cropped. By default height.",
        "aesthetic_score": "Micro-conditioning of the refiner: how beautiful the image is to be.",
        "max_sequence_length": "Maximum number of tokens that each encoder reads of a prompt; some encoders have a lower limit.",
    },
    "edit": {
        "negative_prompt": "What not to show. Without it there is no guidance; a blank is enough for some.",
        "steps": "Denoising steps. By default what suits the checkpoint.",
        "guidance_scale": "For models with distilled guidance. The published ones have none, and it does nothing.",
        "seed": "Of the first image; the k-th has seed + k. Random if absent or -1.",
        "width": "Of the result, in pixels. By default that of the first image.",
        "height": "Of the result, in pixels. By default that of the first image.",
        "num_images": "How many images.",
        "scheduler": "By default the checkpoint's own.",
        "preview_every": "Steps between previews in a stream of events; 0 for none.",
        "format": "How the images are encoded.",
        "quality": "1 to 100, of WebP and JPEG.",
        "true_guidance_scale": "How much the prompt counts against the negative prompt. 1: no guidance, in half the time. By default what suits the checkpoint.",
        "mask": "Where the first image is changed, in any format and size: where the mask is transparent; of a mask without transparency, where it is white. Pixels elsewhere stay as they are, byte for byte.",
        "align": "Whether the result is moved by the few pixels by which the model shifts its content.",
        "make_map": "A map that is made of the first image, for the ControlNet of a checkpoint that has one; others see it as one more image behind the others. depth and keypoints need a model, which the installation names.",
        "control_image": "A map that the result follows through the checkpoint's ControlNet: edges, depth, keypoints or a sketch, in any format and size. It is laid over the first image.",
        "controlnet_conditioning_scale": "How strongly the reference image steers.",
        "control_guidance_start": "The share of the steps from which the ControlNet acts.",
        "control_guidance_end": "The share of the steps up to which the ControlNet acts.",
    },
    "upscale": {
        "model": "The network.",
        "scale": "How much larger, 1 to 8. By default the network's own scale, 4; where it is another one, a resize follows.",
        "tile": "Longest side of a tile in pixels, or 0 for no tiling. By default UPSCALE_TILE, or on a CPU less.",
        "tile_pad": "Pixels around a tile that are computed twice. By default UPSCALE_TILE_PAD.",
        "format": "Of the result; raw are bare rows.",
        "quality": "1 to 100, of WebP and JPEG.",
    },
    "train": {
        "steps": "Optimizer steps. By default `epochs` passes over all images.",
        "epochs": "Passes over all images, where `steps` is absent.",
        "batch_size": "Images of a step.",
        "learning_rate": "Of AdamW; it stays the same.",
        "rank": "Of the low-rank matrices.",
        "alpha": "The change is scaled by alpha / rank. By default `rank`.",
        "resolution": "Images are resized to about this many pixels squared, with their aspect ratio. By default the side that the checkpoint was trained at.",
        "seed": "Of noise, timesteps, the order of the images and the first weights. Random if absent or -1.",
        "prior_images": "Images that the checkpoint makes of `prior_prompts` before the training. Each step then learns from as many of them as of the session's images, so that other prompts change less.",
        "prior_prompts": "What `prior_images` show, in turn: other things that the checkpoint draws well, in the words of its users.",
        "sample_images": "Images that the served model makes with the LoRA after each epoch, or after fewer of many epochs, as results of the task. By default one of each of `sample_prompts`.",
        "sample_prompts": "Of `sample_images`, in turn. By default the captions of the session's images.",
    },
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "generate": {
        "steps": 20,
        "seed": -1,
        "num_images": 1,
        "preview_every": 0,
        "format": "png",
        "quality": 90,
        "strength": 0.8,
        "control_type": "canny",
        "control_preprocess": True,
        "low_threshold": 100,
        "high_threshold": 200,
        "controlnet_conditioning_scale": 1.0,
        "control_guidance_start": 0.0,
        "control_guidance_end": 1.0,
        "refiner_start": 0.8,
        "crop_top": 0,
        "crop_left": 0,
        "aesthetic_score": 6.0,
        "max_sequence_length": 128,
    },
    "edit": {
        "steps": 50,
        "guidance_scale": 1.0,
        "seed": -1,
        "num_images": 1,
        "preview_every": 0,
        "format": "png",
        "quality": 90,
        "true_guidance_scale": 4.0,
        "align": True,
        "controlnet_conditioning_scale": 1.0,
        "control_guidance_start": 0.0,
        "control_guidance_end": 1.0,
    },
    "upscale": {
        "model": "x4plus",
        "tile_pad": 10,
        "format": "png",
        "quality": 90,
    },
    "train": {
        "epochs": 1,
        "batch_size": 4,
        "learning_rate": 0.0001,
        "rank": 4,
        "seed": -1,
        "prior_images": 0,
        "sample_images": 0,
    },
}
"""What the service takes for fields that a request does not name."""
