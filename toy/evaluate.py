"""python -m toy.evaluate --clips 60      # how good the committed weights are on held-out seeds; writes toy/weights/quality.json

VAE: PSNR of encode and decode per test clip. Transformer: clips from test captions, judged by the classifier of toy.classify.
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch
from tqdm import tqdm

from kvlock_core import psnr
from kvlock_diffusers.edit import draw
from kvlock_diffusers.engine import Texts, make_scheduler, sample
from kvlock_diffusers.models import VideoModel
from kvlock_diffusers.toyworld import TOY_CFG, TOY_SHIFT, toy_model

from .captions import caption, encode
from .classify import look
from .load import WEIGHTS
from .scenes import render, scene

LATENT = torch.empty(1, 16, 5, 16, 16)


def round_trip(model: VideoModel, index: int) -> float:
    """PSNR in dB of a test clip after the VAE."""
    clip = torch.from_numpy(render(scene("test", index)))
    return psnr(model.decode(model.encode(clip)), clip)


def generated(model: VideoModel, index: int, steps: int) -> dict[str, bool]:
    """Whether a clip sampled from a test caption has the caption's colour and shape."""
    told = scene("test", index)
    texts = Texts(encode(caption(told)), encode(""))
    latents = sample(model.transformer, make_scheduler("euler", steps, TOY_SHIFT), draw(LATENT, index), texts, TOY_CFG)
    seen = look(model.decode(latents)[::2].numpy())
    return {"color": seen.color == told.color, "shape": seen.shape == told.shape}


def classified(index: int) -> dict[str, bool]:
    """The classifier's own verdict on a real validation clip."""
    told = scene("validation", index)
    seen = look(render(told)[::2])
    return {"color": seen.color == told.color, "shape": seen.shape == told.shape}


def shares(verdicts: list[dict[str, bool]]) -> dict[str, float]:
    return {f"{name}_right": round(statistics.fmean(v[name] for v in verdicts), 3) for name in verdicts[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--half-vae", action="store_true", help="run the VAE in bfloat16")
    options = parser.parse_args()
    model = toy_model(torch.device("cpu"))
    if options.half_vae:
        model.vae.to(torch.bfloat16)
    trips = [round_trip(model, index) for index in tqdm(range(options.clips), desc="VAE")]
    made = [generated(model, index, options.steps) for index in tqdm(range(options.clips), desc="generated")]
    report = {
        "clips": options.clips,
        "vae_round_trip_psnr": {"mean": round(statistics.fmean(trips), 2), "least": round(min(trips), 2), "most": round(max(trips), 2)},
        "generated": {"steps": options.steps, "cfg": TOY_CFG, "shift": TOY_SHIFT, **shares(made)},
        "classifier_on_real_clips": shares([classified(index) for index in tqdm(range(100), desc="classifier")]),
    }
    (WEIGHTS / "quality.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
