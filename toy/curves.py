"""python -m toy.curves      # draws docs/toy_training.png from the logs that lie beside the weights"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

from .load import WEIGHTS

PICTURE = Path(__file__).parent.parent / "docs" / "toy_training.png"
PANELS = (
    ("vae_log.jsonl", "psnr", "VAE: PSNR on training crops, dB"),
    ("vae_log.jsonl", "latent", "VAE: distance of its latents to linear ones"),
    ("transformer_log.jsonl", "image_flow", "transformer: flow loss, single frames"),
    ("transformer_log.jsonl", "video_flow", "transformer: flow loss, clips"),
)


def read(name: str) -> dict[int, dict]:
    """Log lines by step; after a resume the later line of a step counts."""
    lines = [json.loads(line) for line in (WEIGHTS / name).read_text(encoding="utf-8").splitlines()]
    by_step = {line["step"]: line for line in lines}
    return {step: by_step[step] for step in sorted(by_step)}


def main() -> None:
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axis, (name, field, title) in zip(figure.subplots(2, 2).flat, PANELS):
        points = [(step, line[field]) for step, line in read(name).items() if field in line]
        axis.plot(*zip(*points), linewidth=1)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if field != "psnr":
            axis.set_yscale("log")
    figure.savefig(PICTURE, dpi=90)


if __name__ == "__main__":
    main()
