"""Errors of the diffusers face. Every message names the offending value and the next thing to do."""

from kvlock_core.errors import GridMismatchError, KVLockError, MaskError


class VideoReadError(KVLockError, ValueError):
    """A file cannot be read as a video or a picture."""


class VideoWriteError(KVLockError):
    """A video cannot be encoded or stored."""


class OutputPathError(KVLockError):
    """The result could not be stored where the user wants it. Raised before any long work."""


class MaskFileError(MaskError):
    """A mask file was read, but does not fit the clip: other frame count or other shape."""


class ClipTooShortError(KVLockError, ValueError):
    """The clip has fewer frames than a video model needs."""


class FitError(GridMismatchError):
    """A size, or a tensor, that a fit cannot take."""


class ModelError(KVLockError):
    """A model cannot be loaded, or is none that this face can drive."""
