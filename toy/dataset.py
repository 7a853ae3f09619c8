"""Writes training latents of scenes into chunks that the transformer's training reads while more are being made.

python -m toy.dataset --out runs/data --images 24 --clips 16      # thousands
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce
from tqdm import tqdm

from .captions import TEXT_TOKENS, caption, token_ids
from .linear import LinearLatents, fit
from .scenes import FRAMES, Scene, object_mask, render, scene

CHUNK = 1000
FIRST = {"clips": 0, "images": 1_000_000}
SHOWN = {"clips": range(FRAMES), "images": range(8, 9)}
EMPTY_SHARE = 0.06
CELL = 4


def told(index: int) -> Scene:
    """A training scene; a few have no object, so that the model learns what nothing looks like."""
    plain = scene("train", index)
    return plain.emptied() if np.random.RandomState(index).rand() < EMPTY_SHARE else plain


def mask_cells(story: Scene, shown: range) -> torch.Tensor:
    """Share of the object in cells of one latent frame x 4 x 4 pixels, (T, 32, 32)."""
    mask = torch.from_numpy(object_mask(story)[shown.start : shown.stop])
    still = torch.cat([mask[:1].expand(4, -1, -1), mask[1:]])
    return reduce(still, "(t p) (h q) (w r) -> t h w", "mean", p=4, q=CELL, r=CELL)


def chunk(linear: LinearLatents, kind: str, number: int) -> dict[str, np.ndarray]:
    rows = {"latents": [], "masks": [], "words": []}
    for index in range(FIRST[kind] + number * CHUNK, FIRST[kind] + (number + 1) * CHUNK):
        story = told(index)
        rows["latents"].append(linear.encode(torch.from_numpy(render(story, SHOWN[kind]))).half().numpy())
        rows["masks"].append((255 * mask_cells(story, SHOWN[kind])).byte().numpy())
        rows["words"].append(F.pad(torch.tensor(token_ids(caption(story))), (0, TEXT_TOKENS))[:TEXT_TOKENS].numpy())
    return {name: np.stack(values) for name, values in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/data"))
    parser.add_argument("--images", type=int, default=24, help="thousands of single frames")
    parser.add_argument("--clips", type=int, default=16, help="thousands of clips")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    basis = options.out / "linear.npz"
    if not basis.exists():
        fit([torch.from_numpy(render(scene("train", index))) for index in range(200)]).save(basis)
    linear = LinearLatents.load(basis)
    for kind, count in (("images", options.images), ("clips", options.clips)):
        for number in tqdm(range(count), desc=kind):
            path = options.out / f"{kind}-{number:03d}.npz"
            if not path.exists():
                np.savez(path.with_suffix(".part.npz"), **chunk(linear, kind, number))
                path.with_suffix(".part.npz").rename(path)


if __name__ == "__main__":
    main()
