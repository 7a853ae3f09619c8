"""What the pictures show: a clip of a photograph with its mask, and a clip of the toy world."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
CLIP, MASK, TOY, TOY_MASK = "clip.mp4", "mask.png", "toy.mp4", "toy_mask.png"
WIDTH, HEIGHT, FRAMES, FPS = 832, 480, 33, 16
#: Eyes of the cat in the first frame: centre and half axes in pixels.
EYES = ((239, 187, 88, 74), (735, 212, 66, 70))
WORDS = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import workflows as w
folder = Path(sys.argv[2])
w.write_inputs(folder)
(folder / w.CLIP).rename(folder / "toy.mp4"); (folder / w.MASK).rename(folder / "toy_mask.png")
print(json.dumps(w.WORDS))
"""


def write(folder: Path, python: Path) -> dict[str, str]:
    """Fills ComfyUI's input folder. -> the toy's texts by what they are for"""
    folder.mkdir(parents=True, exist_ok=True)
    told = subprocess.run([str(python), "-c", WORDS, str(ROOT / "tests" / "host"), str(folder)], capture_output=True, text=True,
                          check=True, cwd=folder)  # fmt: skip
    photograph(folder)
    return json.loads(told.stdout)


def photograph(folder: Path) -> None:
    """A slow pan over the cat that scikit-image ships (CC0), and a mask of its eyes."""
    from skimage import data

    cat = Image.fromarray(data.chelsea()).resize((1353, 900), Image.LANCZOS)
    with av.open(str(folder / CLIP), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            left, top = 230 + number // 2, 150 + number // 4
            pixels = np.asarray(cat.crop((left, top, left + WIDTH, top + HEIGHT)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    mask = Image.new("RGB", (WIDTH, HEIGHT))
    for x, y, across, down in EYES:
        ImageDraw.Draw(mask).ellipse((x - across, y - down, x + across, y + down), fill="white")
    mask.save(folder / MASK)
