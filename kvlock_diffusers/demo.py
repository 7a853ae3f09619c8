"""The demo: edits a toy test clip three ways and shows what each one did to the background."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from kvlock_core import Fidelity, LockSchedule, RunTrace, fidelity, mask_coverage, psnr
from kvlock_core.trace import plain

from . import toyworld
from .edit import EditResult, EditSettings, edit_clip
from .engine import Progress
from .models import VideoModel
from .plots import mask_over, plot_traces, save_contact_sheet, side_by_side
from .report import markdown
from .video import check_output, write_video

UNLOCKED, ALONE, KVLOCK = "no lock", "lock alone", "KV-Lock"
FILES = ("comparison.mp4", "comparison.png", "schedule.png", "report.md", "report.json")
SHEET_FRAMES = (0, 8, 16)


@dataclass(frozen=True)
class Case:
    """One edit of a toy clip with its exact answer."""

    index: int
    told: toyworld.Scene
    retold: toyworld.Scene

    @property
    def goal(self) -> tuple[str | None, str | None]:
        return self.retold.color, self.retold.shape


@dataclass(frozen=True, eq=False)
class Outcome:
    """One way of editing: `fidelity` against the source, `answer` the distance in dB to the counterfactual in the mask."""

    result: EditResult
    fidelity: Fidelity
    answer: float
    sighting: toyworld.Sighting
    seconds: float

    def numbers(self) -> dict:
        seen = {"color": self.sighting.color, "shape": self.sighting.shape}
        kept = self.fidelity.to_dict()
        return {**kept, "edit_psnr_to_counterfactual": self.answer, "seen": seen, "seconds": round(self.seconds, 1)}


def case(index: int, color: str | None = None, shape: str | None = None) -> Case:
    """Test clip `index` with another colour or shape; without either, the next colour of the palette."""
    told = toyworld.scene("test", index)
    return Case(index, told, toyworld.retold(told, color, shape))


def methods(settings: EditSettings) -> dict[str, EditSettings]:
    """What is compared: only watching, the lock alone as hard as it goes, and the settings asked for."""
    session = settings.session
    alone = replace(session, lock=LockSchedule(kind="constant"), guidance=None, projection=False)
    return {
        UNLOCKED: replace(settings, session=replace(alone, lock=None), composite=False),
        ALONE: replace(settings, session=alone, composite=False),
        KVLOCK: settings,
    }


def run_case(
    model: VideoModel, task: Case, settings: EditSettings, progress: Callable[[str], Progress], z_src: Tensor
) -> dict[str, Outcome]:
    """Every method on one case: same model, noise and steps. `z_src` is the clip's latent."""
    clip, mask = toyworld.clip(task.told), toyworld.mask(task.told, task.retold)
    answer = toyworld.clip(task.retold)
    asked = replace(settings, prompt=toyworld.caption(task.retold), source_prompt=toyworld.caption(task.told))
    outcomes = {}
    for name, chosen in methods(asked).items():
        start = time.perf_counter()
        result = edit_clip(model, clip, mask, chosen, z_src=z_src, progress=progress(name))
        seconds = time.perf_counter() - start
        kept, seen = fidelity(result.frames, clip, mask), toyworld.look(result.frames.numpy(), mask.numpy())
        outcomes[name] = Outcome(result, kept, psnr(result.frames, answer, 1 - mask), seen, seconds)
    return outcomes


def check_outputs(folder: Path, overwrite: bool) -> None:
    """Before any work: every file can be written. Raises OutputPathError."""
    for name in FILES:
        check_output(folder / name, overwrite, suffixes=(Path(name).suffix,))


def run_demo(
    folder: Path, model: VideoModel, task: Case, settings: EditSettings, progress: Callable[[str], Progress]
) -> dict:
    """Runs the case, writes the five files of `FILES` into `folder`, returns the report."""
    clip, mask = toyworld.clip(task.told), toyworld.mask(task.told, task.retold)
    z_src = model.encode(clip)
    outcomes = run_case(model, task, settings, progress, z_src)
    # what the VAE alone does to the untouched source: no edit through the latent can be better
    ceiling = fidelity(model.decode(z_src), clip, mask)
    report = describe(task, settings, outcomes, ceiling, mask_coverage(mask))
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    clips = gallery(clip, mask, task, outcomes)
    write_video(folder / "comparison.mp4", side_by_side(clips, scale=2), toyworld.FPS)
    save_contact_sheet(folder / "comparison.png", clips, SHEET_FRAMES, scale=2)
    plot_traces(folder / "schedule.png", traces(outcomes), (settings.session.lock or LockSchedule()).tau)
    return report


def gallery(clip: Tensor, mask: Tensor, task: Case, outcomes: dict[str, Outcome]) -> dict[str, Tensor]:
    edits = {name: outcome.result.frames for name, outcome in outcomes.items()}
    return {"source": clip, "edit mask": mask_over(clip, mask), **edits, "exact answer": toyworld.clip(task.retold)}


def traces(outcomes: dict[str, Outcome]) -> dict[str, RunTrace]:
    return {name: outcome.result.trace for name, outcome in outcomes.items()}


def describe(
    task: Case, settings: EditSettings, outcomes: dict[str, Outcome], best: Fidelity, coverage: float
) -> dict:
    """Everything about a demo run, in JSON's own types."""
    return {
        "clip": {"split": "test", "index": task.index, "mask_share": coverage},
        "source_prompt": toyworld.caption(task.told),
        "prompt": toyworld.caption(task.retold),
        "goal": dict(zip(("color", "shape"), task.goal)),
        "settings": plain(asdict(settings)),
        "vae_round_trip": best.to_dict(),
        "methods": {name: outcome.numbers() for name, outcome in outcomes.items()},
        "traces": {name: json.loads(trace.to_json()) for name, trace in traces(outcomes).items()},
    }
