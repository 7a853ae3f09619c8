"""The command line: every setting of the method under its name, with unit, meaning and default."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from kvlock_core import (
    CODECS,
    COMPOSITE_LOCK,
    SOURCE_MODES,
    Budgets,
    GuidanceSchedule,
    LockSchedule,
    RiskSettings,
    SessionSettings,
    SourceSettings,
)
from kvlock_core.schedule import KINDS
from kvlock_core.types import REGIONS, RISK_FORMS

from .edit import SOURCE_NOISES, SOURCE_PATHS, EditSettings
from .engine import SAMPLERS
from .fit import RULES
from .loading import DTYPES, TOY
from .toyworld import COLORS, SHAPES

GUIDANCE, RISK, EDIT, SOURCE = GuidanceSchedule(), RiskSettings(), EditSettings(prompt=""), SourceSettings()
OFF = "off"
LOCKED_ROWS = {"both": ("cond", "uncond"), "cond": ("cond",), "uncond": ("uncond",)}


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every default but None, whose meaning the help says in words, and those of switches, which are off."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.nargs == 0 else super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    """`demo`, `edit` and `calibrate`."""
    main = argparse.ArgumentParser(prog="kvlock_diffusers", description="Edit one thing in a video and keep the rest.")
    commands = main.add_subparsers(dest="command", required=True, metavar="demo | edit | calibrate")
    style = _Defaults
    demo = commands.add_parser("demo", help="edit a toy clip three ways and report", formatter_class=style)
    _add_demo(demo)
    edit = commands.add_parser("edit", help="edit a video of yours", formatter_class=style)
    _add_clip(edit)
    _add_output(edit)
    calibrate = commands.add_parser("calibrate", help="measure a clip's risk without a lock, and suggest tau", formatter_class=style)
    _add_clip(calibrate)
    calibrate.add_argument("--mean-alpha", type=float,
                           help="the suggested tau's alpha on the average (default: halfway between floor and ceiling)")  # fmt: skip
    for command in (demo, edit, calibrate):
        _add_sampling(command)
        _add_source(command)
        _add_lock(command)
        _add_risk_and_guidance(command)
    demo.set_defaults(**DEMO)
    return main


def _add_demo(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the toy clip")
    group.add_argument("--out", type=Path, default=Path("output"), help="folder for the five files")
    group.add_argument("--overwrite", action="store_true", help="replace files of an earlier demo")
    group.add_argument("--clip", type=int, default=DEMO_CLIP, help="which test clip")
    group.add_argument("--color", choices=tuple(COLORS), help="the object's new colour (default: the next of the palette)")
    group.add_argument("--shape", choices=SHAPES, help="the object's new shape (default: as it was)")


#: A clip on which the edit is easy to see.
DEMO_CLIP = 10
#: As in the evidence (docs/evidence.md).
DEMO = dict(steps=20)


def _add_clip(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("clip and model")
    group.add_argument("--model", required=True, help=f"'{TOY}', a folder or hub name of Wan 2.1 T2V in diffusers' format")
    group.add_argument("--video", type=Path, required=True, help="the source clip, any size, 5 frames or more")
    group.add_argument("--mask", type=Path, required=True, help="mp4, png or webm; white (or opaque) = may change")
    group.add_argument("--prompt", required=True, help="what the edited clip shows, all of it")
    group.add_argument("--source-prompt", help="what the source shows (default: the prompt)")
    group.add_argument("--negative-prompt", default=EDIT.negative_prompt, help="what to guide away from")
    group.add_argument("--max-frames", type=int, help="edit only the first so many frames (default: all)")
    group.add_argument("--fit", choices=RULES, default="pad", help="pad or centre-crop to multiples of 16 px; undone in the output")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument("--dtype", choices=tuple(DTYPES), default="auto", help="of the transformer; auto: float32 on a CPU, else bfloat16")


def _add_output(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("output")
    group.add_argument("--out", type=Path, required=True, help="the edited clip, .mp4")
    group.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    group.add_argument("--trace", type=Path, help="also write what happened at every step, .json")
    group.add_argument("--save-cache", type=Path, help="also write the source's K,V, .safetensors, for later edits of this clip")
    group.add_argument("--load-cache", type=Path, help="use K,V that an earlier edit of this clip saved")


def _add_sampling(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("sampling")
    group.add_argument("--steps", type=int, default=EDIT.steps, help="sampling steps")
    group.add_argument("--cfg", type=float, help="CFG scale; 1 = no guidance, for distilled models (default: the model's)")
    group.add_argument("--shift", type=float, help="flow shift (default: the model's)")
    group.add_argument("--sampler", choices=SAMPLERS, default=EDIT.sampler, help="flow-match Euler or UniPC")
    group.add_argument("--seed", type=int, default=EDIT.seed, help="of the edit's noise")
    group.add_argument("--grow", type=int, default=EDIT.grow, help="widen the edit mask by so many pixels (negative shrinks)")
    group.add_argument("--invert", action="store_true", help="swap what may change and what is kept")


def _add_source(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("source keys and values")
    group.add_argument("--source-path", choices=SOURCE_PATHS, default=EDIT.source_path,
                       help="how the source gets to a noise level: closed form, or ODE inversion")  # fmt: skip
    group.add_argument("--source-noise", choices=SOURCE_NOISES, default=EDIT.source_noise,
                       help="for 'noised': a draw of its own, the edit's, or a fresh one a step")  # fmt: skip
    group.add_argument("--source-seed", type=int, default=EDIT.source_seed, help="of the source's noise")
    group.add_argument("--source-mode", choices=SOURCE_MODES, default=SOURCE.mode,
                       help="lockstep: one more batch row; in_step: a call of its own, K,V kept for the step; stored: kept for later "
                       "edits of the clip; auto: by the free memory")  # fmt: skip
    group.add_argument("--refresh-every", type=int, default=SOURCE.refresh_every, help="run the source in every so-many-th locked step")
    group.add_argument("--cache-format", choices=CODECS, default=SOURCE.codec, help="of K,V that are kept; same: as computed")
    for name, meaning in (("device", "on the device"), ("memory", "in the computer's memory"), ("disk", "on the disk")):
        group.add_argument(f"--cache-{name}-gb", type=float, default=getattr(SOURCE.budgets, name) / 1e9, help=f"most of what is kept {meaning}")


def _add_lock(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("lock")
    group.add_argument("--no-composite", dest="composite", action="store_false", default=EDIT.composite,
                       help="hold the background by the lock alone; by default its latents end as the source's own")  # fmt: skip
    group.add_argument("--lock", choices=(*KINDS, OFF), help=_either("kind", "how alpha is decided at each step"))
    group.add_argument("--tau", type=float, help=_either("tau", "risk threshold: alpha = risk / tau"))
    group.add_argument("--alpha-floor", type=float, help=_either("floor", "least alpha in the active range, 0 ... 1"))
    group.add_argument("--alpha-ceiling", type=float, help=_either("ceiling", "most alpha, 0 ... 1; 1 = source K,V"))
    group.add_argument("--start-percent", type=float, help=_either("start_percent", "active range: share of the steps before it"))
    group.add_argument("--end-percent", type=float, help=_either("end_percent", "active range: share of the steps to its end"))
    group.add_argument("--rows", choices=tuple(LOCKED_ROWS), default="both", help="which CFG rows are locked")
    group.add_argument("--blocks", type=int, nargs=2, metavar=("FIRST", "LAST"), help="which transformer blocks (default: all)")


def _either(name: str, meaning: str) -> str:
    """Help of a setting whose default follows the composite; the empty default keeps argparse from adding its own."""
    with_composite, alone = (getattr(lock, name) for lock in (COMPOSITE_LOCK, LockSchedule()))
    default = f"{with_composite}" if with_composite == alone else f"{with_composite}, with --no-composite {alone}"
    return f"{meaning} (default: {default})"


def _add_risk_and_guidance(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("risk and guidance")
    group.add_argument("--risk-form", choices=RISK_FORMS, default=RISK.form,
                       help="rate: the same at any number of steps, shift, sampler; variance: the paper's, tau 0.01")  # fmt: skip
    group.add_argument("--window", type=int, default=RISK.window, help="risk: predictions in it, in steps (default: a fifth of the steps)")
    group.add_argument("--region", choices=REGIONS, default=RISK.region, help="risk: inside the edit mask, or everywhere")
    group.add_argument("--detrend", action="store_true", help="risk: spread around a line instead of around the mean")
    group.add_argument("--normalise", action="store_true", help="risk: relative to the prediction's mean square")
    group.add_argument("--guidance", choices=(*KINDS, OFF), default=OFF, help="how omega is decided; off: cfg throughout")
    group.add_argument("--omega-floor", type=float, default=GUIDANCE.floor, help="least omega, times cfg")
    group.add_argument("--omega-ceiling", type=float, default=GUIDANCE.ceiling, help="most omega, times cfg")
    group.add_argument("--projection", action="store_true", help="scale the negative prediction by s_star; without it plain CFG")


def edit_settings(options: argparse.Namespace) -> EditSettings:
    """Settings of an edit from parsed options. Raises SettingsError."""
    return EditSettings(
        prompt=getattr(options, "prompt", ""),
        source_prompt=getattr(options, "source_prompt", None),
        negative_prompt=getattr(options, "negative_prompt", ""),
        session=session_settings(options),
        source=source_settings(options),
        **{name: getattr(options, name) for name in SAME_NAMES},
    )


SAME_NAMES = (
    "steps", "cfg", "shift", "sampler", "seed", "grow", "invert", "composite", "source_path", "source_noise", "source_seed"
)  # fmt: skip


def source_settings(options: argparse.Namespace) -> SourceSettings:
    """Where source K,V come from, from parsed options; a file to save to needs a run that keeps them. Raises SettingsError."""
    budgets = Budgets(*(round(getattr(options, f"cache_{name}_gb") * 1e9) for name in ("device", "memory", "disk")))
    saves = options.source_mode == "auto" and getattr(options, "save_cache", None) is not None
    return SourceSettings("stored" if saves else options.source_mode, options.cache_format, options.refresh_every, budgets)


def session_settings(options: argparse.Namespace) -> SessionSettings:
    """Settings of the session from parsed options; lock and guidance share tau and the active range (M6, M7)."""
    lock = lock_settings(options)
    active = dict(tau=lock.tau, start_percent=lock.start_percent, end_percent=lock.end_percent)
    omega = dict(kind=options.guidance, floor=options.omega_floor, ceiling=options.omega_ceiling, **active)
    return SessionSettings(
        lock=None if options.lock == OFF else lock,
        guidance=None if options.guidance == OFF else GuidanceSchedule(**omega),
        risk=RiskSettings(options.window, options.region, options.detrend, options.normalise, options.risk_form),
        projection=options.projection,
        rows=LOCKED_ROWS[options.rows],
        blocks=None if options.blocks is None else tuple(options.blocks),
    )


#: option -> field of LockSchedule
LOCK_FIELDS = {"lock": "kind", "tau": "tau", "alpha_floor": "floor", "alpha_ceiling": "ceiling",
               "start_percent": "start_percent", "end_percent": "end_percent"}  # fmt: skip


def lock_settings(options: argparse.Namespace) -> LockSchedule:
    """What was given, and for the rest the schedule that suits the composite or its absence; "off" counts as not given."""
    given = {field: getattr(options, option) for option, field in LOCK_FIELDS.items()}
    said = {field: value for field, value in given.items() if value not in (None, OFF)}
    return replace(COMPOSITE_LOCK if options.composite else LockSchedule(), **said)
