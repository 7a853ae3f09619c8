"""The error tree. Every message names the offending value and the next thing to do."""


class KVLockError(Exception):
    """Root of everything KV-Lock raises on purpose."""


class SettingsError(KVLockError, ValueError):
    """A setting is outside what it may be."""


class ScheduleError(KVLockError, ValueError):
    """A step index or a noise level does not belong to the run's schedule."""


class MaskError(KVLockError, ValueError):
    """A mask has a shape, a dtype or values that no edit mask can have."""


class GridMismatchError(KVLockError, ValueError):
    """Two things that must lie on the same grid of frames, cells or tokens do not."""


class NonFiniteError(KVLockError, ValueError):
    """NaN or infinity where a number is needed."""


class SourceError(KVLockError):
    """The source keys and values cannot be had."""


class StoreError(KVLockError):
    """A place that keeps source K,V fails, or holds something else than what is asked for."""


class CacheFileError(StoreError, ValueError):
    """A file is not a cache of source K,V that we can use."""


class SessionError(KVLockError, RuntimeError):
    """The calls of a session came in an order that has no meaning."""


class TraceError(KVLockError, ValueError):
    """A text is not a run trace of a version that we read."""


class MetricError(KVLockError, ValueError):
    """A measure is undefined for these inputs."""
