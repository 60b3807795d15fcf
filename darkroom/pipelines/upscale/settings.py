"""The settings of the upscalers."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from darkroom.family_settings import FamilySettings

TILE_RANGE = (32, 4096)
TILE_PAD_RANGE = (0, 256)
TILE, TILE_PAD = 400, 10


class Settings(FamilySettings):
    """What is exported, how images are cut into tiles, and the limits of one request."""

    model_config = SettingsConfigDict(env_prefix="UPSCALE_")
    title = "Upscaling"

    max_pixels: int = Field(
        4096 * 4096,
        ge=1,
        description="Largest image, in pixels; larger ones are refused after a look at their header.",
    )
    max_output_pixels: int = Field(
        16384 * 16384,
        ge=1,
        description="Largest result, in pixels. Each takes three or four bytes of memory, for every task that runs.",
    )
    tile: int = Field(
        TILE,
        ge=TILE_RANGE[0],
        le=TILE_RANGE[1],
        description="Longest side of a tile in pixels; smaller tiles need less memory. A GPU takes this tile. On a "
        "CPU it is the upper bound of each network's own default, which takes a second or two (76 for x4plus; GET "
        "/api/info lists them), so that other requests need not wait for long. A request that names a tile gets "
        "exactly that one.",
    )
    tile_pad: int = Field(
        TILE_PAD,
        ge=TILE_PAD_RANGE[0],
        le=TILE_PAD_RANGE[1],
        description="The margin around a tile, in pixels, which the network sees and which is thrown away.",
    )
    # Two keep a CPU busy while the last tile is put away; on a GPU it is the batch that one image can fill by itself.
    tiles_in_flight: int = Field(
        2,
        ge=1,
        le=64,
        description="Tiles of one image that are at a network at once. On a CPU no more of them than have the pixels "
        "of one default tile. On a GPU try 8.",
    )
    # The others wait for their turn in the pipeline, where a cancelled request still takes them back; what Triton has
    # queued it computes.
    tiles_at_network: int = Field(
        8,
        ge=1,
        le=1024,
        description="Tiles of all images that are at a network at once. On a CPU no more of them than have the pixels "
        "of three default tiles. On a GPU try 16.",
    )
    browser_max_mb: int = Field(
        80,
        ge=0,
        description="Largest network file, in MB, that browsers get so that the studio can upscale in them; 0 = none.",
    )
    fp16: bool = Field(
        True, description="Half precision where there is a GPU. Takes effect with the next export (./start.sh)."
    )
