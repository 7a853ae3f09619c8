"""Runs methods on cases in worker processes; every finished run is one line of a file, so that nothing is done twice."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kvlock_diffusers.plots import mask_over

from .cases import Case
from .measures import measure
from .methods import Method
from .task import Sampling, Task, load_world, prepare

WORKERS = 2
SPAWN = multiprocessing.get_context("spawn")
#: Row names that are no method: what the VAE alone does to the source, and to the exact answer.
ROUND_TRIP, ANSWER_TRIP = "VAE round trip", "VAE round trip of the exact answer"


def read(file: Path) -> list[dict]:
    """Finished runs."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def run(cases: list[Case], methods: Callable[[], list[Method]], file: Path, pictures: tuple[str, ...] = ()) -> None:
    """Adds to `file` every run of `methods()` on `cases` that it lacks. `pictures`: names of cases whose frames are kept."""
    done = {(row["case"], row["method"]) for row in read(file)}
    names = [ROUND_TRIP, ANSWER_TRIP, *(method.name for method in methods())]
    left = [case for case in cases if any((case.name, name) not in done for name in names)]
    file.parent.mkdir(parents=True, exist_ok=True)
    in_workers(left, _work, methods, file, done, pictures, SPAWN.Lock())


def in_workers(cases: list[Case], work: Callable, *given) -> None:
    """`work(its cases, *given)` in WORKERS processes. Raises SystemExit if one fails."""
    shares = [cases[i::WORKERS] for i in range(WORKERS)]
    processes = [SPAWN.Process(target=work, args=(share, *given), daemon=True) for share in shares if share]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a worker failed; its error is above. Run the same command again: it goes on where it stopped")


def _work(cases, methods, file, done, pictures, lock) -> None:
    torch.set_num_threads(1)
    model = load_world()
    for case in cases:
        task = prepare(model, case, Sampling())
        if case.name in pictures:
            _keep_told(file.with_suffix(""), task)
        for name, edit in _rows(task, methods()):
            if (case.name, name) in done:
                continue
            before = task.net.rows
            latents, trace = edit(task)
            frames = model.decode(latents)
            row = {"case": case.name, "method": name, "rows": task.net.rows - before, **measure(task, frames), **(trace or {})}
            with lock, file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            if case.name in pictures:
                _keep(file.with_suffix(""), case, name, frames)


def _rows(task: Task, methods: list[Method]):
    model = task.model
    yield ROUND_TRIP, lambda task: (task.z_src, None)
    yield ANSWER_TRIP, lambda task: (model.encode(task.answer), None)
    for method in methods:
        yield method.name, _traced(method)


def _traced(method: Method):
    def edit(task: Task) -> tuple[Tensor, dict | None]:
        edited = method.edit(task)
        if edited.trace is None:
            return edited.latents, None
        return edited.latents, {name: [getattr(step, name) for step in edited.trace.steps] for name in ("risk", "alpha", "omega")}

    return edit


def picture_file(folder: Path, case: Case, name: str) -> Path:
    """Middle frame (H,W,3) uint8 of a case: "source", "mask", "answer", or a method's edit."""
    return folder / f"{case.name}-{name.replace('/', '_')}.npy"


def _keep(folder: Path, case: Case, name: str, frames: Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(picture_file(folder, case, name), (255 * frames[len(frames) // 2]).round().byte().numpy())


def _keep_told(folder: Path, task: Task) -> None:
    """What was given and what was wanted."""
    tinted = mask_over(task.clip, task.mask)
    for name, frames in (("source", task.clip), ("mask", tinted), ("answer", task.answer)):
        _keep(folder, task.case, name, frames)
