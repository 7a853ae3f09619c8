"""What `demo`, `edit` and `calibrate` do, around the engine: read, check, show progress, write."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor
from tqdm import tqdm

from kvlock_core import (
    KVLockError,
    KVStore,
    LockSchedule,
    SourceSettings,
    calibrate as tau_for,
    load_cache,
    mask_coverage,
    save_cache,
    target_alpha,
)
from kvlock_core.budget import in_words

from .demo import FILES, case, check_outputs, run_demo
from .edit import EditSettings, edit_clip, plan_fit, prepared_mask
from .engine import Progress
from .loading import TOY, load_model
from .models import VideoModel
from .options import edit_settings, parser
from .report import row, table
from .video import Video, check_output, read_mask, read_video, write_video

_log = logging.getLogger("kvlock")

FAILED, INTERRUPTED = 1, 130


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. -> exit code: 0, 1 after an error that was explained, 130 after Ctrl-C."""
    logging.basicConfig(format="kvlock: %(message)s", level=logging.WARNING, stream=sys.stderr)
    options = parser().parse_args(arguments)
    try:
        {"demo": demo, "edit": edit, "calibrate": calibrate}[options.command](options)
    except KVLockError as error:
        sys.stderr.write(f"\nkvlock: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("\nkvlock: stopped; nothing was written\n")
        return INTERRUPTED
    return 0


def demo(options: argparse.Namespace) -> None:
    """Edits a toy clip and reports."""
    check_outputs(options.out, options.overwrite)
    settings, task = edit_settings(options), case(options.clip, options.color, options.shape)
    report = run_demo(options.out, load_model(TOY, device="cpu"), task, settings, bar)
    rows = [row("VAE round trip", report["vae_round_trip"])]
    rows += [row(name, numbers) for name, numbers in report["methods"].items()]
    sys.stdout.write(f"{report['source_prompt']}\n-> {report['prompt']}\n\n{table(rows)}\n\n")
    sys.stdout.write("".join(f"{options.out / name}\n" for name in FILES))


def edit(options: argparse.Namespace) -> None:
    """Edits a clip from a file."""
    check_output(options.out, options.overwrite)
    if options.trace is not None:
        check_output(options.trace, options.overwrite, suffixes=(".json",))
    if options.save_cache is not None:
        check_output(options.save_cache, options.overwrite, suffixes=(".safetensors",))
    settings = edit_settings(options)
    model, video, mask = inputs(options, settings)
    fit = plan_fit(model, video.frames, options.fit)
    with store_for(options, settings.source, model) as store:
        result = edit_clip(model, video.frames, mask, settings, fit=fit, store=store, tell=tell, progress=bar("edit"))
        write_video(options.out, result.frames, video.fps)
        if options.trace is not None:
            options.trace.write_text(result.trace.to_json(), encoding="utf-8")
        if result.source_summary:
            tell(result.source_summary)
        if options.save_cache is not None:
            tell(f"{options.save_cache}: {in_words(save_cache(store, options.save_cache))}")
    sys.stdout.write(f"{options.out}\n")


@contextmanager
def store_for(options: argparse.Namespace, source: SourceSettings, model: VideoModel) -> Iterator[KVStore | None]:
    """What keeps source K,V beyond the run: a file that was saved, a new store where the mode asks for one, or nothing."""
    folder = tempfile.gettempdir()
    if options.load_cache is not None:
        store = load_cache(options.load_cache, source.tiers(model.device, folder))
    else:
        store = source.new_store(model.device, folder) if source.mode == "stored" else None
    try:
        yield store
    finally:
        if store is not None:
            store.close()


def tell(line: str) -> None:
    """A line for the user, beside the progress bar."""
    tqdm.write(f"kvlock: {line}", file=sys.stderr)


def calibrate(options: argparse.Namespace) -> None:
    """Samples a clip once without a lock, and says how large its risk is and which tau follows from it."""
    settings = edit_settings(options)
    lock = settings.session.lock or LockSchedule()
    target_alpha(lock, options.mean_alpha)  # refuses what cannot be before anything is sampled
    watching = replace(settings, session=replace(settings.session, lock=None, guidance=None, projection=False))
    model, video, mask = inputs(options, settings)
    result = edit_clip(model, video.frames, mask, watching, fit=plan_fit(model, video.frames, options.fit), progress=bar("calibrate"))
    found = tau_for(result.trace, lock, options.mean_alpha)
    sys.stdout.write(
        f"risk over {found.steps} steps of the active range: least {found.least:.3g}, median {found.median:.3g}, most {found.most:.3g}\n"
        f"--tau {found.tau:.3g} gives a mean alpha of {found.mean_alpha:g}\n"
    )


def inputs(options: argparse.Namespace, settings: EditSettings) -> tuple[VideoModel, Video, Tensor]:
    """The model, the clip and its mask (F,H,W), as the command names them."""
    video = read_video(options.video, options.max_frames)
    frames, height, width, _ = video.frames.shape
    mask = read_mask(options.mask, frames=frames, height=height, width=width, max_frames=options.max_frames)
    warn_about(prepared_mask(mask, settings))
    return load_model(options.model, device=options.device, dtype=options.dtype), video, mask


def warn_about(mask) -> None:
    """A mask that is empty or full is legal, and mostly a mistake."""
    share = mask_coverage(mask)
    if share == 0.0:
        _log.warning("the edit mask is empty: nothing may change; paint the object white, or use --invert")
    elif share == 1.0:
        _log.warning("the edit mask covers everything: nothing is locked; paint the background black, or use --invert")


def bar(name: str) -> Progress:
    """A progress bar on stderr for one run."""
    shown = tqdm(desc=f"{name:<10}", unit="step", file=sys.stderr)

    def advance(done: int, steps: int) -> None:
        shown.total = steps
        shown.update(done - shown.n)
        if done == steps:
            shown.close()

    return advance
