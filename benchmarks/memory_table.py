"""python -m benchmarks.memory_table      # writes the tables of docs/memory.md: arithmetic, and what docs/source_modes.json and
docs/codecs.json measured

Only what stands between the markers `<!-- begin: NAME -->` and `<!-- end: NAME -->` is written. GB are 10^9 bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kvlock_core.codec import CODECS, codec
from kvlock_core.schedule import COMPOSITE_LOCK
from kvlock_diffusers.keeping import row_tensors

DOCS = Path(__file__).parent.parent / "docs"
GB = 1e9
STEPS, LOCKABLE = 20, 0.8
#: Of 20 steps, those that the default lock acts in.
DEFAULT_STEPS = sum(COMPOSITE_LOCK.is_active(step, STEPS) for step in range(STEPS))
#: Work that a card sustains on such a model, 10^12 operations a second: assumed, for a middling and a fast card of today.
CARDS_TFLOPS = (50, 150)
BUS_GBS = {"3.0": 12, "4.0": 25}  # page-locked copies over 16 lanes of PCIe: assumed
#: Into the page-locked buffer, by one core, before they cross: assumed. One after the other, in a thread of its own.
BUFFER_GBS = 10
DISK_GBS = 5  # a good NVMe disk
VRAM = (8, 12, 16, 24, 48)
#: What the desktop, CUDA and the allocator's gaps take of a card: assumed.
TAKEN = 1.5 * GB
#: Of the weights, what must be on the card while the rest comes from the computer's memory block by block: assumed.
LEAST_WEIGHTS = 0.1
#: cache_ram_gb that an artist's computer is assumed to spare for a run.
SPARE_RAM = {8: 16 * GB, 12: 16 * GB, 16: 32 * GB, 24: 48 * GB, 48: 96 * GB}


@dataclass(frozen=True)
class Wan:
    """A model's shape (its config.json); `strides` of its VAE in time and space; `weight_bytes` of one weight as it is mostly run."""

    name: str
    dim: int
    blocks: int
    ffn: int
    strides: tuple[int, int]
    weight_bytes: int

    @property
    def weights(self) -> float:
        """Bytes: eight square projections a block and the feed-forward net."""
        return self.blocks * (8 * self.dim**2 + 2 * self.dim * self.ffn) * self.weight_bytes

    @property
    def row_tensors(self) -> float:
        """(tokens, dim) tensors of one row at its fullest, a rule that fits what docs/source_modes.json measured."""
        return row_tensors(self.dim, self.ffn)


@dataclass(frozen=True)
class Clip:
    """A model at a size (width, height, frames)."""

    wan: Wan
    size: tuple[int, int, int]

    @property
    def title(self) -> str:
        return f"{self.wan.name}, {self.size[0]}x{self.size[1]}x{self.size[2]}"

    @property
    def tokens(self) -> int:
        (width, height, frames), (time, space) = self.size, self.wan.strides
        return ((frames - 1) // time + 1) * (width // (2 * space)) * (height // (2 * space))

    def block(self, share: float = 1.0, of: str = "same") -> int:
        """K and V of one block in bytes; heads are 128 wide in every Wan."""
        return codec(of).packed_bytes((1, self.wan.dim // 128, round(self.tokens * share), 128), torch.bfloat16)

    def step(self, share: float = 1.0, of: str = "same") -> int:
        return self.wan.blocks * self.block(share, of)

    @property
    def row(self) -> float:
        """Bytes of one row of activations in bfloat16."""
        return self.wan.row_tensors * self.tokens * self.wan.dim * 2

    @property
    def work(self) -> float:
        """Operations of one row: six projections of every token, the feed-forward net, attention of all with all."""
        d, blocks = self.wan.dim, self.wan.blocks
        return 2.0 * self.tokens * blocks * (6 * d * d + 2 * d * self.wan.ffn + 2 * self.tokens * d)


SMALL, FIVE, LARGE = (
    Wan("Wan 1.3B", 1536, 30, 8960, (4, 8), 2),
    Wan("Wan2.2 5B", 3072, 30, 14336, (4, 16), 2),
    Wan("Wan 14B (fp8)", 5120, 40, 13824, (4, 8), 1),
)
P480, P720 = (832, 480, 81), (1280, 720, 81)
CLIPS = (
    Clip(SMALL, P480), Clip(SMALL, P720), Clip(FIVE, P480), Clip(FIVE, (1280, 704, 81)), Clip(FIVE, (1280, 704, 121)), Clip(LARGE, P480), Clip(LARGE, P720),
)  # fmt: skip


# tables ---------------------------------------------------------------------------------------------------------------


def markdown(head: list[str], rows: list[list[str]], words: int = 1) -> str:
    """A table; the first `words` columns are text, the others numbers."""
    lines = [head, ["---" if at < words else "---:" for at in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def gb(size: float) -> str:
    return f"{size / GB:.3g}" if size < 100 * GB else f"{size / GB:,.0f}"


def sizes(_: dict) -> str:
    head = ["model, clip", "tokens", "K+V of a block", "of a step", "of a step, 80 %", "the same, int8", "20 steps, 80 %", f"{DEFAULT_STEPS} steps, 80 %, int8"]
    rows = [
        [
            clip.title, f"{clip.tokens:,}", gb(clip.block()), gb(clip.step()), gb(clip.step(LOCKABLE)), gb(clip.step(LOCKABLE, "int8")),
            gb(STEPS * clip.step(LOCKABLE)), gb(DEFAULT_STEPS * clip.step(LOCKABLE, "int8")),
        ]
        for clip in CLIPS
    ]  # fmt: skip
    return markdown(head, rows)


def activations(_: dict) -> str:
    head = ["model, clip", "weights", "tensors a row", "one row", "three rows with the weights"]
    rows = [
        [clip.title, gb(clip.wan.weights), f"{clip.wan.row_tensors:.1f}", gb(clip.row), gb(3 * clip.row + clip.wan.weights)]
        for clip in CLIPS
    ]
    return markdown(head, rows)


def copying(_: dict) -> str:
    """Copies of one step, at 80 % of the tokens, against the step's own work with CFG."""
    head = ["model, clip", "work of a row (10^15)"]
    head += [f"step with CFG at {speed} T/s (s)" for speed in CARDS_TFLOPS]
    head += [f"copy over PCIe {bus} (s)" for bus in BUS_GBS] + ["int8 over PCIe 3.0 (s)", f"int8 from a disk at {DISK_GBS} GB/s (s)"]
    slow, fast = (1 / (1 / speed + 1 / BUFFER_GBS) * GB for speed in BUS_GBS.values())
    rows = []
    for clip in CLIPS:
        step, packed = clip.step(LOCKABLE), clip.step(LOCKABLE, "int8")
        seconds = [2 * clip.work / (1e12 * speed) for speed in CARDS_TFLOPS]
        seconds += [step / slow, step / fast, packed / slow, packed / slow + packed / (GB * DISK_GBS)]
        rows.append([clip.title, f"{clip.work / 1e15:.2f}", *(f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in seconds)])
    return markdown(head, rows)


# what to choose -------------------------------------------------------------------------------------------------------


def choices(_: dict) -> str:
    head = ["model, clip", *(f"{vram} GB" for vram in VRAM)]
    return markdown(head, [[clip.title, *(choice(clip, vram) for vram in VRAM)] for clip in CLIPS], words=len(head))


def choice(clip: Clip, vram: int) -> str:
    """A letter of the key below the table, and cache_ram_gb where it counts."""
    room, least = vram * GB - TAKEN, LEAST_WEIGHTS * clip.wan.weights
    if 3 * clip.row + clip.wan.weights <= room:
        return "**A**"
    if 3 * clip.row + least <= room:
        return "**B**"
    rows = next((n for n in (2, 1) if n * clip.row + 2 * clip.block() + least <= room), 0)
    if not rows:
        return "–"
    letter = {2: "C", 1: "D"}[rows]
    plain, packed = (math.ceil(clip.step(LOCKABLE, of) / GB) for of in ("same", "int8"))
    if plain * GB <= SPARE_RAM[vram]:
        return f"**{letter}** {plain}"
    return f"**{letter}** {packed} int8"


def storing(_: dict) -> str:
    """What a whole run takes, in the formats that matter."""
    head = ["model, clip", "same", "int8", "int8, refresh_every 2", "int8, all 20 steps"]
    rows = []
    for clip in CLIPS:
        step, packed = clip.step(LOCKABLE), clip.step(LOCKABLE, "int8")
        values = (DEFAULT_STEPS * step, DEFAULT_STEPS * packed, math.ceil(DEFAULT_STEPS / 2) * packed, STEPS * packed)
        rows.append([clip.title, *map(gb, values)])
    return markdown(head, rows)


# what was measured ----------------------------------------------------------------------------------------------------


def measured_time(report: dict) -> str:
    settings = report["time"]["settings"]
    names = list(dict.fromkeys(name for found in settings.values() for name in found["variants"]))
    shown = [[name, *(_time_cell(found["variants"].get(name)) for found in settings.values())] for name in names]
    return markdown(["ratio to plain / arithmetic", *settings], shown)


def measured_growth(report: dict) -> str:
    """A line for each clip and model; all steps lock."""
    head = ["", "plain, s a step", "lockstep / arithmetic", "in_step / arithmetic", "second edit", "rounds"]
    rows = []
    for title, found in report["growth"]["settings"].items():
        cells = [_time_cell(found["variants"][name]) for name in ("lockstep", "in_step")]
        second = f"{found['variants']['stored, second run']['ratio']:.2f}"
        rows.append([title.rsplit(", ", 1)[0], f"{found['plain_seconds']:.3g}", *cells, second, str(found["rounds"])])
    return markdown(head, rows)


def measured_seconds(report: dict) -> str:
    """Extra seconds as the estimate told them, over those that were measured."""
    ratios = {
        title: {name: f"{row['told_vs_measured']:.2f}" for name, row in found["variants"].items() if "told_vs_measured" in row}
        for title, found in report["time"]["settings"].items()
    }
    told = {title: of for title, of in ratios.items() if of}
    names = dict.fromkeys(name for of in told.values() for name in of)
    return markdown(["told / measured", *told], [[name, *(of.get(name, "") for of in told.values())] for name in names])


def _time_cell(row: dict | None) -> str:
    return "" if row is None else f"{row['ratio']:.2f} / {row['arithmetic']:.2f}"


def measured_memory(report: dict) -> str:
    tables, parts = report["memory"]["tables"], []
    for title, table in tables.items():
        told = table["arithmetic_mb"]
        parts.append(
            f"{title}, {'CFG' if table['cfg'] else 'no CFG'}: plain sampling peaks at {table['plain_peak_mb']:.0f} MB; by arithmetic K+V of "
            f"a block {told['block']:.1f} MB ({told['block_int8']:.1f} as int8), of a step {told['step']:.0f} MB; a row took "
            f"{table['row_tensors']['measured']:.1f} (tokens, dim) tensors.\n"
        )
        head = ["MB", "above plain", "above plain, one call a step", "kept in memory", "above plain and kept"]
        keys = ("above_plain_mb", "above_one_call_mb", "kept_in_memory_mb", "above_plain_and_kept_mb")
        parts.append(markdown(head, [[name, *(f"{row[key]:.0f}" for key in keys)] for name, row in table["variants"].items()]) + "\n")
    return "\n".join(parts).rstrip()


def measured_formats(report: dict) -> str:
    """Relative root mean square errors, in percent; of edits the median and the worst clip, inside and outside the mask."""
    head = ["", "bytes, of bf16", "keys", "values", "outputs of attention", "edit, inside", "worst", "edit, outside", "worst"]
    found, rows = report["codecs"], []
    for name, row in found["codecs"].items():
        if name in CODECS:
            errors = [f"{100 * row[of]:.2f}" for of in ("key_error", "value_error", "output_error")]
            rows.append([name, f"{row['bytes_vs_bf16']:.2f}", *errors, *_edit_errors(row["edit"])])
    yardsticks = {"all of the model in bf16": "transformer in bf16", "another source seed": "another source seed"}
    rows += [[name, "", "", "", "", *_edit_errors(found["edit_yardsticks"][of])] for name, of in yardsticks.items()]
    return markdown(head, rows)


def _edit_errors(edit: dict) -> list[str]:
    return [f"{100 * edit[where][of]:.2g}" for where in ("inside", "outside") for of in ("median", "worst")]


def measured_quality(report: dict) -> str:
    head = ["", "refresh_every", "rows of the run", "background (dB)", "worst clip, against 1", "edit to exact answer (dB)", "worst clip, against 1"]
    rows = [
        [
            lock, refresh.split()[-1], f"{row['rows']:.0f}", f"{row['background_psnr']:.2f}", f"{min(row['background_change']):+.2f}",
            f"{row['answer_psnr']:.2f}", f"{min(row['answer_change']):+.2f}",
        ]
        for lock, found in report["quality"]["locks"].items()
        for refresh, row in found.items()
    ]  # fmt: skip
    return markdown(head, rows)


TABLES: dict[str, Callable[[dict], str]] = {
    "sizes": sizes,
    "activations": activations,
    "copying": copying,
    "choices": choices,
    "storing": storing,
    "measured time": measured_time,
    "measured growth": measured_growth,
    "measured seconds": measured_seconds,
    "measured memory": measured_memory,
    "measured formats": measured_formats,
    "measured quality": measured_quality,
}


def filled(text: str, report: dict) -> str:
    """`text` with every table anew. Raises SystemExit if a marker is missing."""
    for name, table in TABLES.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"docs/memory.md needs {begin} and {end}, once each")
        text = re.sub(f"{begin}.*?{end}", lambda _, made=table(report): f"{begin}\n{made}\n{end}", text, flags=re.DOTALL)
    return text


def main() -> None:
    page = DOCS / "memory.md"
    report = {name: json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8")) for name in ("source_modes", "codecs")}
    report = report.pop("source_modes") | report
    page.write_text(filled(page.read_text(encoding="utf-8"), report), encoding="utf-8")


if __name__ == "__main__":
    main()
