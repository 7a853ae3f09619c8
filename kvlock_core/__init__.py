"""KV-Lock: the method of arXiv 2603.09657, free of any host. Public names only; see docs/method.md."""

from .calibrate import Calibration, calibrate, target_alpha
from .composite import LatentComposite, keep_outside
from .errors import (
    GridMismatchError,
    KVLockError,
    MaskError,
    MetricError,
    NonFiniteError,
    ScheduleError,
    SessionError,
    SettingsError,
    SourceError,
    TraceError,
)
from .fuse import fuse
from .guidance import guide, s_star
from .invert import FreshNoisePath, NoisedPath, SourcePath, TrajectoryPath, draw, invert, noised, seed_of_step
from .metrics import (
    Fidelity,
    background_ssim,
    color_drift,
    drift_slope,
    fidelity,
    flicker,
    psnr,
    psnr_per_frame,
    seam_mismatch,
)
from .risk import RiskWindow
from .schedule import (
    COMPOSITE_LOCK,
    PAPER_GUIDANCE,
    PAPER_LOCK,
    GuidanceSchedule,
    LockSchedule,
    guidance_scale,
    is_active,
    lock_strength,
)
from .session import LockSession
from .settings import SessionSettings
from .source import InStep, Lockstep, SourceKV
from .tokens import grow_mask, invert_mask, latent_mask, mask_coverage, token_mask
from .trace import RunTrace
from .types import PAPER_RISK, RiskSettings, Site, StepPlan, StepRecord

__all__ = [
    "COMPOSITE_LOCK",
    "Calibration",
    "Fidelity",
    "FreshNoisePath",
    "GridMismatchError",
    "GuidanceSchedule",
    "InStep",
    "KVLockError",
    "LatentComposite",
    "LockSchedule",
    "LockSession",
    "Lockstep",
    "MaskError",
    "MetricError",
    "NoisedPath",
    "NonFiniteError",
    "PAPER_GUIDANCE",
    "PAPER_LOCK",
    "PAPER_RISK",
    "RiskSettings",
    "RiskWindow",
    "RunTrace",
    "ScheduleError",
    "SessionError",
    "SessionSettings",
    "SettingsError",
    "Site",
    "SourceError",
    "SourceKV",
    "SourcePath",
    "StepPlan",
    "StepRecord",
    "TraceError",
    "TrajectoryPath",
    "background_ssim",
    "calibrate",
    "color_drift",
    "draw",
    "drift_slope",
    "fidelity",
    "flicker",
    "fuse",
    "grow_mask",
    "guidance_scale",
    "guide",
    "invert",
    "invert_mask",
    "is_active",
    "keep_outside",
    "latent_mask",
    "lock_strength",
    "mask_coverage",
    "noised",
    "psnr",
    "psnr_per_frame",
    "s_star",
    "seed_of_step",
    "seam_mismatch",
    "target_alpha",
    "token_mask",
]
