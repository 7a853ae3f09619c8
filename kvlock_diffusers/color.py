"""Colour between decoded frames and RGB in [0,1], in float32 and in our own arithmetic.

libswscale's default conversion shifts saturated colours by up to 40 of 255 (it writes BT.601 whatever the
tag says) and, tagged right, still darkens a picture by 1 of 255 on average. An editor that promises to leave
the background alone cannot start with that. So YUV is converted here: chroma is repeated on reading and
averaged over 2x2 on writing, the two being exact inverses, and a clip that is read and written again keeps its
Y, U and V planes (colours outside the RGB cube excepted, they are clipped). libswscale only unpacks formats
that need no colour matrix.
"""

import numpy as np

# (Kr, Kb) of ITU-R BT.601-7, BT.709-6 and BT.2020-2; keys are the code points of ITU-T H.273, table 4
BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)
SPC_BT709 = 1
LUMA_WEIGHTS = {SPC_BT709: BT709, 5: BT601, 6: BT601, 9: BT2020, 10: BT2020}
UNSPECIFIED = (2, 3, 0)  # 2 unspecified, 3 reserved, 0 RGB: what some muxers leave on YUV streams
RANGE_LIMITED, RANGE_FULL = 1, 2
HD_WIDTH, HD_HEIGHT = 1280, 577  # untagged pictures from here on are BT.709, the rule of common players


class UnknownColorError(ValueError):
    """A colour matrix outside the table; `decode` turns it into a VideoReadError that names the file."""


def frame_to_rgba(frame):
    """One decoded `av.VideoFrame` -> (H,W,4) float32 in [0,1]; alpha is 1 where the format has none."""
    if frame.format.is_rgb or _is_grey_or_palette(frame.format):
        return _unpack(frame)
    if not _is_planar(frame.format):
        frame = _retagged(frame.reformat(format="yuv444p"), frame)  # packed YUV: the same numbers, own planes
    return _planar_yuv_to_rgba(frame)


def rgb_to_yuv420(rgb):
    """(H,W,3) in [0,1], H and W even -> (3H/2,W) uint8: BT.709 limited-range Y, then U, then V."""
    height, width, _ = rgb.shape
    y, blue, red = _rgb_to_yuv(rgb, BT709)
    planes = 16 + 219 * y, 128 + 224 * _mean_2x2(blue), 128 + 224 * _mean_2x2(red)
    return np.concatenate([_to_bytes(plane).ravel() for plane in planes]).reshape(height * 3 // 2, width)


def tag_bt709(target):
    """Writes on a codec context or a frame that its numbers are BT.709, limited range, for every reader to see."""
    target.color_range = RANGE_LIMITED
    target.colorspace = SPC_BT709
    for name in ("color_primaries", "color_trc"):
        if hasattr(target, name):  # frames have these two only in newer PyAV; the encoder's are what counts
            setattr(target, name, SPC_BT709)


def luma(rgb):
    """(...,3) -> (...): the BT.709 weighted sum."""
    kr, kb = BT709
    return rgb @ np.array([kr, 1 - kr - kb, kb], dtype=rgb.dtype)


def _is_grey_or_palette(pixel_format):
    return len(pixel_format.components) <= 2


def _is_planar(pixel_format):
    """True if each component has its own plane of whole little-endian samples, so that numpy can view it."""
    components = pixel_format.components
    simple = not (pixel_format.is_bit_stream or (pixel_format.is_big_endian and components[0].bits > 8))
    return simple and len({c.plane for c in components}) == len(components) and components[0].bits <= 16


def _unpack(frame):
    """RGB, grey or palette frame -> (H,W,4) float32. No colour matrix is involved, so libswscale is exact here."""
    deep = frame.format.components[0].bits > 8
    pixels = frame.reformat(format="rgba64le" if deep else "rgba").to_ndarray()
    return pixels.astype(np.float32) / np.float32(65535 if deep else 255)


def _retagged(frame, original):
    frame.colorspace, frame.color_range = original.colorspace, original.color_range
    return frame


def _planar_yuv_to_rgba(frame):
    height, width = frame.height, frame.width
    planes = [_spread(_plane(frame, c), height, width) for c in frame.format.components]
    bits = frame.format.components[0].bits
    rgba = np.ones((height, width, 4), dtype=np.float32)
    _yuv_to_rgb(*_normalised(planes[:3], bits, _is_full_range(frame)), luma_weights(frame), out=rgba)
    if len(planes) == 4:
        rgba[..., 3] = planes[3] / np.float32(2**bits - 1)
    return rgba


def _plane(frame, component):
    """Samples of one component, (h,w), a view that lives as long as the frame."""
    plane = frame.planes[component.plane]
    dtype = np.dtype("u1" if component.bits <= 8 else "<u2")
    rows = np.frombuffer(plane, dtype=dtype).reshape(-1, plane.line_size // dtype.itemsize)
    return rows[: component.height, : component.width]


def _spread(plane, height, width):
    """Repeats subsampled chroma to the luma grid; odd sizes lose the surplus row or column. -> float32"""
    rows, columns = -(-height // plane.shape[0]), -(-width // plane.shape[1])
    full = plane.repeat(rows, axis=0).repeat(columns, axis=1) if rows * columns > 1 else plane
    return full[:height, :width].astype(np.float32)


def _is_full_range(frame):
    return frame.color_range == RANGE_FULL or frame.format.name.startswith("yuvj")


def luma_weights(frame):
    """(Kr, Kb) by the frame's tag; an untagged frame is BT.709 from HD size on and BT.601 below."""
    space = int(frame.colorspace)
    if space in LUMA_WEIGHTS:
        return LUMA_WEIGHTS[space]
    if space not in UNSPECIFIED:
        raise UnknownColorError(f"its colour matrix has H.273 code {space}; known are {sorted(LUMA_WEIGHTS)}")
    return BT709 if frame.width >= HD_WIDTH or frame.height >= HD_HEIGHT else BT601


def _normalised(planes, bits, full_range):
    """Sample values -> Y in [0,1], Cb and Cr in [-0.5,0.5], with the quantisation levels of H.273, 8.3."""
    step = np.float32(2 ** (bits - 8))
    black, luma_span, chroma_span = (0, 2**bits - 1, 2**bits - 1) if full_range else (16 * step, 219 * step, 224 * step)
    y, blue, red = planes
    return (y - black) / luma_span, (blue - 128 * step) / chroma_span, (red - 128 * step) / chroma_span


def _yuv_to_rgb(y, blue, red, weights, out):
    kr, kb = weights
    out[..., 0] = y + 2 * (1 - kr) * red
    out[..., 2] = y + 2 * (1 - kb) * blue
    out[..., 1] = (y - kr * out[..., 0] - kb * out[..., 2]) / (1 - kr - kb)
    np.clip(out, 0, 1, out=out)


def _rgb_to_yuv(rgb, weights):
    kr, kb = weights
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    y = kr * r + (1 - kr - kb) * g + kb * b
    return y, (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))


def _mean_2x2(plane):
    height, width = plane.shape
    return plane.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))


def _to_bytes(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
