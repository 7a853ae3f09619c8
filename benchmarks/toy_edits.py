"""python -m benchmarks.toy_edits --clips 20      # the demo's comparison on many held-out clips; about 20 minutes on 2 cores

Even clips change colour, odd ones shape. Every other option is one of the demo's. Writes docs/toy_edits.json and .md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

from kvlock_diffusers import toyworld
from kvlock_diffusers.demo import Case, Outcome, case, run_case
from kvlock_diffusers.loading import TOY, load_model
from kvlock_diffusers.models import VideoModel
from kvlock_diffusers.options import edit_settings, parser

DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument("--clips", type=int, default=20)
    own.add_argument("--first", type=int, default=0, help="index of the first test clip")
    own.add_argument("--name", default="toy_edits", help="of the two files in docs/")
    own.add_argument("--half-vae", action="store_true", help="decode in bfloat16: many times as fast on processors that have it")
    options, rest = own.parse_known_args()
    settings = edit_settings(parser().parse_args(["demo", *rest]))
    model = load_model(TOY, device="cpu")
    if options.half_vae:
        halve(model)
    results = []
    for index in range(options.first, options.first + options.clips):
        task = chosen(index)
        outcomes = run_case(model, task, settings, lambda name: lambda done, steps: None, model.encode(toyworld.clip(task.told)))
        results.append({name: numbers(task, outcome) for name, outcome in outcomes.items()})
        print(index, {name: (round(r["psnr"], 1), r["color_right"], r["shape_right"]) for name, r in results[-1].items()}, flush=True)
    write(options, rest, results)


def halve(model: VideoModel) -> None:
    model.vae.to(torch.bfloat16)
    for parameter in model.vae.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


def chosen(index: int) -> Case:
    """Colour or shape, each the next but one of its list."""
    told = toyworld.scene("test", index)
    if index % 2 == 0:
        return case(index)
    return case(index, shape=toyworld.SHAPES[(toyworld.SHAPES.index(told.shape) + 2) % len(toyworld.SHAPES)])


def numbers(task: Case, outcome: Outcome) -> dict:
    seen, (color, shape) = outcome.sighting, task.goal
    return {
        "psnr": outcome.fidelity.psnr,
        "ssim": outcome.fidelity.ssim,
        "answer": outcome.answer,
        "color_right": seen.color == color,
        "shape_right": seen.shape == shape,
    }


def write(options: argparse.Namespace, rest: list[str], results: list[dict]) -> None:
    half = " --half-vae" if options.half_vae else ""
    command = f"python -m benchmarks.toy_edits --clips {options.clips} --first {options.first}{half} {' '.join(rest)}".strip()
    (DOCS / f"{options.name}.json").write_text(json.dumps({"command": command, "clips": results}, indent=1), encoding="utf-8")
    lines = ["# Edits of held-out toy clips", "", f"Made by `{command}`.", "", TABLE]
    lines += [line(name, [clip[name] for clip in results], [clip["no lock"] for clip in results]) for name in results[0]]
    (DOCS / f"{options.name}.md").write_text("\n".join(lines) + NOTE, encoding="utf-8")
    print("\n".join(lines))


TABLE = "| | background PSNR | against no lock, clip by clip | SSIM | edit to exact answer | colour right | shape right |\n|---|---|---|---|---|---|---|"
NOTE = """

Means over the clips; +- is the standard deviation between clips. Background: true mean over pixels outside the edit mask. Exact
answer: PSNR inside the mask against the same scene drawn with the new colour or shape. Colour and shape: what the classifier of
`toy/classify.py` names inside the mask; on real scenes it is right for 100 % and 99 % (150 validation clips).
"""


def line(name: str, runs: list[dict], plain: list[dict]) -> str:
    def mean(key: str) -> float:
        return statistics.fmean(run[key] for run in runs)

    gains = [run["psnr"] - other["psnr"] for run, other in zip(runs, plain)]
    spread = f" +- {statistics.stdev(gains):.1f}" if len(gains) > 1 else ""
    return (
        f"| {name} | {mean('psnr'):.1f} dB | {statistics.fmean(gains):+.1f}{spread} dB | {mean('ssim'):.3f} "
        f"| {mean('answer'):.1f} dB | {mean('color_right'):.0%} | {mean('shape_right'):.0%} |"
    )


if __name__ == "__main__":
    main()
