"""From a file to RGBA frames: the one place that opens media for reading."""

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from .color import UnknownColorError, frame_to_rgba
from .errors import VideoReadError

logger = logging.getLogger("kvlock")

RE_ENCODE = "re-encode it, for example with: ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4"
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # H.273, table 3
# FFmpeg's own VP8/VP9 decoders drop the alpha channel of WebM files; libvpx keeps it
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}

# a title that is not UTF-8 must not stop a video; from PyAV 19 on this is so without asking
LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def decode(path, convert, max_frames=None):
    """Reads a video or a picture, frame by frame.

    `convert` makes of one RGBA frame, (H,W,4) float32 in [0,1], what is kept of it, so that memory never
    holds four channels of a whole clip. Returns (list of the converted frames, frames per second).
    Raises VideoReadError: file absent, empty, unreadable, without a picture, or changing its size midway.
    """
    path = _existing_file(path)
    if max_frames is not None and max_frames < 1:
        raise VideoReadError(f"max_frames is {max_frames}; ask for at least 1 frame of {path}")
    try:
        with av.open(str(path), **LENIENT) as container:
            return _decode_container(container, path, convert, max_frames)
    except (av.error.FFmpegError, OSError, UnknownColorError) as error:
        raise VideoReadError(f"{path} cannot be read as a video or a picture: {error}; {RE_ENCODE}") from error


def _existing_file(path):
    path = Path(path)
    if not path.exists():
        raise VideoReadError(f"{path} does not exist; check the spelling and the folder")
    if not path.is_file():
        raise VideoReadError(f"{path} is not a file; name one video or picture")
    if path.stat().st_size == 0:
        raise VideoReadError(f"{path} is empty (0 bytes); export or download it again")
    return path


def _decode_container(container, path, convert, max_frames):
    if not container.streams.video:
        raise VideoReadError(f"{path} holds no video stream; choose a video or a picture, or export it again")
    stream = container.streams.video[0]
    _warn_about(stream, path)
    kept, shape = [], None
    for frame in _frames(container, stream):
        rgba = _upright(frame_to_rgba(frame), frame.rotation, path)
        shape = _same_shape(shape, rgba.shape, len(kept), path)
        kept.append(convert(rgba))
        if len(kept) == max_frames:
            break
    if not kept:
        raise VideoReadError(f"{path} holds no frame that can be decoded; {RE_ENCODE}")
    return kept, _frame_rate(stream, path)


def _frames(container, stream):
    """The stream's decoded frames in presentation order, with the alpha channel where WebM carries one."""
    decoder = ALPHA_DECODERS.get(stream.codec_context.name)
    if stream.metadata.get("alpha_mode") != "1" or decoder is None:
        yield from container.decode(stream)
        return
    context = av.CodecContext.create(decoder, "r")
    for packet in container.demux(stream):
        yield from context.decode(packet)


def _upright(rgba, rotation, path):
    """Turns a frame by the angle (degrees, counter-clockwise) that the file asks players to show it at."""
    if rotation % 90:
        logger.warning("%s asks to be shown turned by %s degrees; only quarter turns are followed", path, rotation)
        return rgba
    return np.ascontiguousarray(np.rot90(rgba, rotation // 90))


def _same_shape(expected, shape, index, path):
    if expected not in (None, shape):
        was, now = (f"{s[1]}x{s[0]}" for s in (expected, shape))
        raise VideoReadError(f"{path} changes its size at frame {index}, from {was} to {now}; {RE_ENCODE}")
    return shape


def _frame_rate(stream, path):
    rate = stream.average_rate or stream.guessed_rate
    if not rate or rate <= 0:
        raise VideoReadError(f"{path} does not say its frames per second; {RE_ENCODE} and add: -r 24")
    return Fraction(rate)


def _warn_about(stream, path):
    pixel_shape = stream.sample_aspect_ratio
    if pixel_shape and pixel_shape != 1:
        logger.warning("%s has pixels of shape %s; they are treated as squares", path, pixel_shape)
    transfer = HDR_TRANSFERS.get(int(stream.codec_context.color_trc))
    if transfer:
        logger.warning("%s is HDR (%s); it is treated as SDR and will look flat: tone-map it first", path, transfer)
