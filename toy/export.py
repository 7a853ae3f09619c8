"""Writes the trained EMA weights as float16 files in Wan 2.1's original key names, and the logs beside them.

python -m toy.export
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from .layout import State, fold_normalisation, latent_statistics, original_transformer, original_vae
from .load import TRANSFORMER_FILE, VAE_FILE, WEIGHTS
from .model import new_vae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    vae = fold_normalisation(trained(options.runs / "vae"), *latent_statistics(new_vae()))
    write(options.out / VAE_FILE, original_vae(vae))
    write(options.out / TRANSFORMER_FILE, original_transformer(trained(options.runs / "transformer")))
    for name in ("vae", "transformer"):
        shutil.copy(options.runs / name / "log.jsonl", options.out / f"{name}_log.jsonl")


def trained(run: Path) -> State:
    return torch.load(run / "checkpoint.pt", map_location="cpu")["ema"]


def write(path: Path, state: State) -> None:
    save_file({name: value.half().contiguous() for name, value in state.items()}, path)


if __name__ == "__main__":
    main()
