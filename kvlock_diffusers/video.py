"""Video files in and out. Frames are (F,H,W,3) float32 tensors in [0,1], RGB."""

import logging
import math
import os
import tempfile
import uuid
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from .color import rgb_to_yuv420, tag_bt709
from .decode import decode
from .errors import OutputPathError, VideoWriteError
from .masks import read_mask

__all__ = ["Video", "check_output", "read_mask", "read_video", "write_video"]

logger = logging.getLogger("kvlock")

VIDEO_SUFFIXES = (".mp4",)
BEST_CRF, WORST_CRF = 0, 51  # x264's scale for 8-bit video; 18 is called visually lossless
LARGEST_RATE_DENOMINATOR = 1001  # 24000/1001 and its like are exact; no real rate needs more


@dataclass(frozen=True, eq=False)
class Video:
    """A clip in memory: `frames` (F,H,W,3) float32 RGB in [0,1], `fps` frames per second."""

    frames: torch.Tensor
    fps: Fraction


def read_video(path, max_frames=None):
    """Reads a video, or a picture as a clip of one frame. -> Video

    Any container and codec that PyAV knows. Quarter-turn rotation tags are followed; alpha and sound are
    dropped; pixels are taken as square. The colour matrix is the tagged one, and for untagged files BT.709
    from 1280 wide or 577 high on, else BT.601. A variable frame rate becomes its average; a picture has
    FFmpeg's nominal 25 fps.
    `max_frames` keeps only the first so many. Raises VideoReadError.
    """
    frames, fps = decode(path, _rgb, max_frames)
    return Video(torch.stack(frames), fps)


def write_video(path, frames, fps, *, crf=12):
    """Writes H.264 yuv420p in MP4, tagged BT.709 limited range. -> Path

    `frames` (F,H,W,3) floating, values outside [0,1] are clipped; `fps` int, float or Fraction; `crf` 0 best
    to 51. H.264 4:2:0 needs even sizes: an odd height or width gets one more row or column, a copy of the
    last. The file appears under its name only when complete, replacing an older one; a failure leaves
    nothing behind. Raises VideoWriteError, and OutputPathError as `check_output`.
    """
    path = check_output(path, overwrite=True)
    frames, rate = _checked_frames(frames), _checked_rate(fps)
    if not BEST_CRF <= crf <= WORST_CRF:
        raise VideoWriteError(f"crf is {crf}; choose {BEST_CRF} (best) to {WORST_CRF} (smallest)")
    # the encoder must not see the final name: a half-written MP4 there would look like a result
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.partial")
    try:
        _encode(partial, frames, rate, crf)
        os.replace(partial, path)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoWriteError(f"{path} cannot be written: {error}; check the free space of the disk") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def check_output(path, overwrite=False, suffixes=VIDEO_SUFFIXES):
    """Makes sure, before any long work, that a result can be stored at `path`. -> Path

    Creates the parent folder, really writes a byte there, refuses an existing file unless `overwrite`, and
    refuses unknown suffixes. Raises OutputPathError.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise OutputPathError(f"{path} ends in {path.suffix!r}; choose a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise OutputPathError(f"{path} is a folder; choose the name of a file")
    if path.exists() and not overwrite:
        raise OutputPathError(f"{path} exists already; choose another name or allow overwriting")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            probe.write(b"\0")
    except OSError as error:
        raise OutputPathError(f"nothing can be written in {path.parent}: {error}; choose another folder") from error
    return path


def _rgb(rgba):
    return torch.from_numpy(rgba[..., :3].copy())


def _checked_frames(frames):
    shape = tuple(frames.shape)
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape or not frames.is_floating_point():
        raise VideoWriteError(f"frames are {shape} {frames.dtype}; give (F,H,W,3) floating-point values in [0,1]")
    if not torch.isfinite(frames).all():
        raise VideoWriteError("frames hold NaN or infinity; the run that made them diverged, look at its trace")
    return frames.detach()


def _checked_rate(fps):
    rate = Fraction(fps).limit_denominator(LARGEST_RATE_DENOMINATOR) if math.isfinite(fps) else 0
    if rate <= 0:
        raise VideoWriteError(f"fps is {fps}; give a number above 0")
    return rate


def _encode(path, frames, rate, crf):
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        logger.info("%dx%d is padded to even sizes for H.264", width, height)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = _h264_stream(container, rate, crf, width + width % 2, height + height % 2)
        for frame in frames:
            container.mux(stream.encode(_yuv_frame(frame)))
        container.mux(stream.encode())


def _h264_stream(container, rate, crf, width, height):
    stream = container.add_stream("libx264", rate=rate)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.options = {"crf": str(crf), "preset": "medium"}
    tag_bt709(stream.codec_context)
    return stream


def _yuv_frame(rgb):
    """(H,W,3) tensor -> `av.VideoFrame`, converted here and tagged, so that libswscale has nothing left to do."""
    rgb = rgb.to(device="cpu", dtype=torch.float32).clamp(0, 1).numpy()
    height, width, _ = rgb.shape
    even = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(rgb_to_yuv420(even), format="yuv420p")
    tag_bt709(frame)
    return frame
