"""KV-Lock: the method of arXiv 2603.09657, free of any host. Public names only; see docs/method.md."""

from .budget import SOURCE_MODES, Budgets, Estimate, RunShape
from .cachefile import load_cache, save_cache
from .calibrate import Calibration, calibrate, target_alpha
from .codec import CODECS, Codec, codec
from .composite import LatentComposite, keep_outside
from .errors import (
    CacheFileError,
    GridMismatchError,
    KVLockError,
    MaskError,
    MetricError,
    NonFiniteError,
    ScheduleError,
    SessionError,
    SettingsError,
    SourceError,
    StoreError,
    TraceError,
)
from .fuse import fuse
from .guidance import guide, s_star
from .identity import Moment, SourceIdentity, SourceKey, fingerprint, weights_fingerprint
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
from .source import InStep, Lockstep, SourceKV, Stored
from .store import KVStore
from .supply import RunSource, SourceSettings, locked_blocks, locked_schedule, run_source, source_mode
from .tiers import DiskTier, MemoryTier
from .tokens import grow_mask, invert_mask, latent_mask, lockable_positions, mask_coverage, token_mask
from .trace import RunTrace
from .types import PAPER_RISK, RiskSettings, Site, StepPlan, StepRecord

__all__ = [
    "Budgets",
    "CODECS",
    "COMPOSITE_LOCK",
    "CacheFileError",
    "Calibration",
    "Codec",
    "DiskTier",
    "Estimate",
    "Fidelity",
    "FreshNoisePath",
    "GridMismatchError",
    "GuidanceSchedule",
    "InStep",
    "KVLockError",
    "KVStore",
    "LatentComposite",
    "LockSchedule",
    "LockSession",
    "Lockstep",
    "MaskError",
    "MemoryTier",
    "MetricError",
    "Moment",
    "NoisedPath",
    "NonFiniteError",
    "PAPER_GUIDANCE",
    "PAPER_LOCK",
    "PAPER_RISK",
    "RiskSettings",
    "RiskWindow",
    "RunShape",
    "RunSource",
    "RunTrace",
    "SOURCE_MODES",
    "ScheduleError",
    "SessionError",
    "SessionSettings",
    "SettingsError",
    "Site",
    "SourceError",
    "SourceIdentity",
    "SourceKV",
    "SourceKey",
    "SourcePath",
    "SourceSettings",
    "StepPlan",
    "StepRecord",
    "StoreError",
    "Stored",
    "TraceError",
    "TrajectoryPath",
    "background_ssim",
    "calibrate",
    "codec",
    "color_drift",
    "draw",
    "drift_slope",
    "fidelity",
    "fingerprint",
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
    "load_cache",
    "lock_strength",
    "lockable_positions",
    "locked_blocks",
    "locked_schedule",
    "mask_coverage",
    "noised",
    "psnr",
    "psnr_per_frame",
    "run_source",
    "s_star",
    "save_cache",
    "seam_mismatch",
    "seed_of_step",
    "source_mode",
    "target_alpha",
    "token_mask",
    "weights_fingerprint",
]
