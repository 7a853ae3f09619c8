"""Video IO: colours survive, errors name the file, nothing half-written stays behind."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from kvlock_diffusers import video as video_module
from kvlock_diffusers.color import RANGE_LIMITED, SPC_BT709, frame_to_rgba, rgb_to_yuv420, tag_bt709
from kvlock_diffusers.errors import MaskFileError, OutputPathError, VideoReadError, VideoWriteError
from kvlock_diffusers.video import check_output, read_mask, read_video, write_video

BYTE = 1 / 255


def store(path, array, pixel_format, codec, *, frames=1, stored_as=None, options=None, rotation=None):
    """Writes `array` (H,W[,C]) uint8 `frames` times through PyAV, without any code of ours."""
    with av.open(str(path), "w", format="image2" if path.suffix in (".png", ".jpg", ".webp") else None) as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width = array.shape[:2]
        stream.pix_fmt, stream.options = stored_as or pixel_format, options or {}
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format=pixel_format)))
        container.mux(stream.encode())
    return path


def patches(size=16):
    """The 27 colours with channels in {0, 1/2, 1}, as squares: (3*size, 9*size, 3)."""
    levels = torch.tensor([0, 128 * BYTE, 1.0])
    colours = torch.cartesian_prod(levels, levels, levels).reshape(3, 9, 3)
    return colours.repeat_interleave(size, 0).repeat_interleave(size, 1)


def gradient(height=48, width=64):
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([rows, columns, torch.full_like(rows, 0.3)], dim=-1)


def as_bytes(frame):
    return (frame * 255).round().byte().numpy()


def blob(frames=5, height=32, width=48):
    mask = torch.zeros(frames, height, width)
    mask[:, 8:20, 10:30] = 1
    return mask


def write_mask(path, mask):
    return write_video(path, mask[..., None].expand(*mask.shape, 3), 8, crf=20)


# -- colour ---------------------------------------------------------------------------------------------------


def test_saturated_colours_survive_a_file(tmp_path):
    frames = patches().expand(3, -1, -1, -1)
    path = write_video(tmp_path / "a.mp4", frames, 8)
    error = (read_video(path).frames - frames).abs()
    assert error.max() <= 3 * BYTE and error.mean() <= 0.5 * BYTE


def test_no_colour_drift(tmp_path):
    """Error without a sign is noise; error with a sign is a wrong matrix, range or rounding."""
    frames = gradient().expand(3, -1, -1, -1)
    drift = (read_video(write_video(tmp_path / "a.mp4", frames, 8)).frames - frames).mean(dim=(0, 1, 2))
    assert drift.abs().max() <= 0.15 * BYTE


def test_the_colour_test_sees_a_wrong_matrix(tmp_path, monkeypatch):
    frames = patches().expand(3, -1, -1, -1)
    monkeypatch.setattr("kvlock_diffusers.color.BT709", (0.299, 0.114))
    error = (read_video(write_video(tmp_path / "a.mp4", frames, 8)).frames - frames).abs()
    assert error.max() > 10 * BYTE


def test_file_is_tagged_for_other_players(tmp_path):
    path = write_video(tmp_path / "a.mp4", patches()[None], 8)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        tags = context.color_range, context.colorspace, context.color_primaries, context.color_trc
        assert tags == (RANGE_LIMITED, SPC_BT709, SPC_BT709, SPC_BT709)
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")


def test_another_reader_sees_the_same_colours(tmp_path):
    path = write_video(tmp_path / "a.mp4", patches()[None], 8)
    with av.open(str(path)) as container:
        theirs = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(theirs[8::16, 8::16].astype(int) - as_bytes(patches())[8::16, 8::16]).max() <= 4


def test_reading_and_writing_again_keeps_the_planes():
    """4:2:0 -> RGB -> 4:2:0 is the identity for colours inside the RGB cube."""
    generator = np.random.default_rng(0)
    y, c = generator.integers(90, 160, 26 * 34), generator.integers(110, 146, 2 * 13 * 17)
    planes = np.concatenate([y, c]).astype(np.uint8).reshape(39, 34)
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    tag_bt709(frame)
    rgba = frame_to_rgba(frame)
    assert np.array_equal(rgb_to_yuv420(rgba[..., :3]), planes)


def test_odd_sizes_keep_chroma_in_place():
    """4:2:0 of 3x5 has chroma 2x3; its first sample covers the first two rows and columns."""
    frame = av.VideoFrame(5, 3, "yuv420p")
    frame.colorspace, frame.color_range = SPC_BT709, RANGE_LIMITED
    for plane, value in zip(frame.planes, (120, 128, 128)):
        plane.update(bytes([value]) * plane.buffer_size)
    spotted = bytearray(frame.planes[2])
    spotted[0] = 160
    frame.planes[2].update(bytes(spotted))
    red = frame_to_rgba(frame)[..., 0]
    where = np.zeros((3, 5), bool)
    where[:2, :2] = True
    assert np.array_equal(red > red.min() + 0.1, where)


@pytest.mark.parametrize("space, weights", [(1, (0.2126, 0.0722)), (5, (0.299, 0.114)), (9, (0.2627, 0.0593))])
@pytest.mark.parametrize("full", [False, True])
def test_yuv_conversion_is_the_standards_formula(space, weights, full):
    planes = np.array([100, 90, 170], np.uint8).repeat(4).reshape(3, 2, 2)
    frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
    frame.colorspace, frame.color_range = space, 2 if full else 1
    y, cb, cr = (100 / 255, -38 / 255, 42 / 255) if full else (84 / 219, -38 / 224, 42 / 224)
    kr, kb = weights
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    assert np.allclose(frame_to_rgba(frame)[0, 0], [red, green, blue, 1], atol=1e-6)


@pytest.mark.parametrize(
    "codec, stored_as",
    [
        ("libx264", "yuv444p"),
        ("libx264", "yuv420p10le"),
        ("ffv1", "gray"),
        ("mpeg4", "yuv420p"),
        ("ffv1", "bgr0"),
        ("rawvideo", "nv12"),
        ("rawvideo", "yuyv422"),
    ],
)
def test_many_formats_are_read_alike(tmp_path, codec, stored_as):
    grey = torch.linspace(0, 1, 48)[None, :, None].expand(32, 48, 3)
    path = store(tmp_path / "a.mkv", as_bytes(grey), "rgb24", codec, frames=2, stored_as=stored_as)
    assert (read_video(path).frames - grey).abs().mean() <= 4 * BYTE


# -- reading --------------------------------------------------------------------------------------------------


def test_video_has_its_count_size_and_rate(tmp_path):
    frames = gradient()[None].repeat(7, 1, 1, 1) * torch.linspace(0.2, 1, 7)[:, None, None, None]
    clip = read_video(write_video(tmp_path / "a.mp4", frames, Fraction(24000, 1001)))
    assert clip.frames.shape == (7, 48, 64, 3) and clip.frames.dtype == torch.float32
    assert clip.fps == Fraction(24000, 1001)
    assert (clip.frames - frames).abs().mean() <= 2 * BYTE  # also: frames are in order


def test_max_frames_cuts_the_end(tmp_path):
    path = write_video(tmp_path / "a.mp4", gradient()[None].expand(6, -1, -1, -1), 8)
    assert torch.equal(read_video(path, max_frames=4).frames, read_video(path).frames[:4])
    assert read_video(path, max_frames=99).frames.shape[0] == 6


@pytest.mark.parametrize(
    "name, codec, stored_as, tolerance",
    [("a.png", "png", "rgb24", 0), ("a.jpg", "mjpeg", "yuvj444p", 4), ("a.webp", "libwebp", "bgra", 4)],
)
def test_a_picture_is_a_clip_of_one_frame(tmp_path, name, codec, stored_as, tolerance):
    expected = gradient()
    options = {"lossless": "1"} if codec == "libwebp" else {"qmin": "1", "q:v": "1"}
    path = store(tmp_path / name, as_bytes(expected), "rgb24", codec, stored_as=stored_as, options=options)
    frames = read_video(path).frames
    assert frames.shape == (1, 48, 64, 3)
    assert np.abs(as_bytes(frames[0]).astype(int) - as_bytes(expected)).mean() <= tolerance


def test_sixteen_bit_png_keeps_its_depth(tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16)[None, :, None].repeat(32, 0).repeat(3, 2)
    path = store(tmp_path / "a.png", values, "rgb48le", "png", stored_as="rgb48be")
    assert np.abs(read_video(path).frames[0].numpy() * 65535 - values).max() < 1


@pytest.mark.skipif(not hasattr(av.VideoFrame, "rotation"), reason="this PyAV knows no rotation")
@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_tag_is_followed(tmp_path, degrees):
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:8, :8] = 255
    try:
        path = store(tmp_path / "a.mp4", picture, "rgb24", "libx264", stored_as="yuv420p", rotation=degrees)
    except AttributeError:
        pytest.skip("this PyAV cannot write a rotation")
    seen = read_video(path).frames[0].mean(-1).numpy() > 0.5
    assert np.array_equal(seen, np.rot90(picture[..., 0] > 0, degrees // 90))


@pytest.mark.parametrize(
    "content, words",
    [(None, "does not exist"), (b"", "empty"), (b"not a video at all" * 9, "cannot be read")],
)
def test_unreadable_file_is_named(tmp_path, content, words):
    path = tmp_path / "source clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoReadError, match=words) as caught:
        read_video(path)
    assert "source clip.mp4" in str(caught.value)


def test_folder_is_no_video(tmp_path):
    with pytest.raises(VideoReadError, match="not a file"):
        read_video(tmp_path)


def test_cut_off_file_is_named(tmp_path):
    whole = write_video(tmp_path / "a.mp4", patches()[None].expand(5, -1, -1, -1), 8).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[:300])
    with pytest.raises(VideoReadError, match="cut.mp4.*export"):
        read_video(tmp_path / "cut.mp4")


def test_a_title_in_another_encoding_is_no_obstacle(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Q" * 8
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 32), np.uint8), format="yuv420p")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"Q" * 8, b"caf\xe9\xff\xfe  "))
    assert read_video(path).frames.shape == (1, 32, 32, 3)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(VideoReadError, match="no video stream"):
        read_video(path)


def test_max_frames_below_one_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", patches()[None], 8)
    with pytest.raises(VideoReadError, match="max_frames is 0"):
        read_video(path, max_frames=0)


# -- writing --------------------------------------------------------------------------------------------------


def test_odd_sizes_get_a_copied_edge(tmp_path):
    frames = gradient(31, 45).expand(5, -1, -1, -1)
    written = read_video(write_video(tmp_path / "a.mp4", frames, 8)).frames
    assert written.shape == (5, 32, 46, 3)
    assert (written[:, :31, :45] - frames).abs().max() <= 12 * BYTE
    assert (written[:, 31] - written[:, 30]).abs().mean() <= 2 * BYTE


def test_values_outside_the_cube_are_clipped(tmp_path):
    frames = torch.full((1, 16, 16, 3), 7.0)
    assert (read_video(write_video(tmp_path / "a.mp4", frames, 8)).frames - 1).abs().max() <= BYTE


def test_low_crf_is_closer(tmp_path):
    frames = torch.rand(2, 32, 32, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, -1, 3)
    fine, coarse = (read_video(write_video(tmp_path / "a.mp4", frames, 8, crf=crf)).frames for crf in (1, 30))
    assert (fine - frames).abs().mean() < (coarse - frames).abs().mean()


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def breaks_after_one_frame(frame, made=[]):
        made.append(frame)
        if len(made) > 1:
            raise OSError("disk full")
        return original(frame)

    original = video_module._yuv_frame
    monkeypatch.setattr(video_module, "_yuv_frame", breaks_after_one_frame)
    with pytest.raises(VideoWriteError, match="disk full.*free space"):
        write_video(path, patches()[None].expand(3, -1, -1, -1), 8)
    assert os.listdir(tmp_path) == ["a.mp4"] and path.read_bytes() == b"old"


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(video_module, "_yuv_frame", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mp4", patches()[None], 8)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_result_has_ordinary_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    assert write_video(tmp_path / "a.mp4", patches()[None], 8).stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    "frames, fps, crf, words",
    [
        (torch.zeros(2, 16, 16), 8, 12, r"\(2, 16, 16\)"),
        (torch.zeros(0, 16, 16, 3), 8, 12, r"\(0, 16, 16, 3\)"),
        (torch.zeros(2, 16, 16, 3, dtype=torch.uint8), 8, 12, "uint8"),
        (torch.full((2, 16, 16, 3), float("nan")), 8, 12, "NaN"),
        (torch.zeros(2, 16, 16, 3), 0, 12, "fps is 0"),
        (torch.zeros(2, 16, 16, 3), float("nan"), 12, "fps is nan"),
        (torch.zeros(2, 16, 16, 3), 8, 52, "crf is 52"),
    ],
)
def test_impossible_writes_are_named(tmp_path, frames, fps, crf, words):
    with pytest.raises(VideoWriteError, match=words):
        write_video(tmp_path / "a.mp4", frames, fps, crf=crf)
    assert os.listdir(tmp_path) == []


# -- where to write -------------------------------------------------------------------------------------------


def test_check_output_makes_the_folder_and_leaves_no_file(tmp_path):
    path = check_output(tmp_path / "new" / "deep" / "a.MP4")
    assert os.listdir(path.parent) == []


def test_existing_file_needs_overwrite(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(OutputPathError, match="exists already.*overwrit"):
        check_output(path)
    assert check_output(path, overwrite=True) == path and path.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["a", "a.avi", "a.png"])
def test_unknown_suffix_is_refused(tmp_path, name):
    with pytest.raises(OutputPathError, match=r"\.mp4"):
        check_output(tmp_path / name)


def test_other_suffixes_on_demand(tmp_path):
    assert check_output(tmp_path / "report.png", suffixes=(".png",)).name == "report.png"


def test_folder_is_no_output(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(OutputPathError, match="is a folder"):
        check_output(tmp_path / "a.mp4")


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputPathError, match="nothing can be written in .*file"):
        check_output(tmp_path / "file" / "a.mp4")


def test_unwritable_folder(tmp_path, monkeypatch):
    def refuses(**_):
        raise PermissionError("read-only")

    monkeypatch.setattr(video_module.tempfile, "TemporaryFile", refuses)
    with pytest.raises(OutputPathError, match="read-only.*another folder"):
        check_output(tmp_path / "a.mp4")


# -- masks ----------------------------------------------------------------------------------------------------


def test_mp4_mask_is_hard_and_exact(tmp_path):
    mask = blob()
    assert torch.equal(read_mask(write_mask(tmp_path / "m.mp4", mask), frames=5, height=32, width=48), mask)


def test_gif_mask(tmp_path):
    path = store(tmp_path / "m.gif", as_bytes(blob(1)[0]), "gray", "gif", frames=5)
    assert torch.equal(read_mask(path, frames=5, height=32, width=48), blob())


def test_one_picture_serves_all_frames(tmp_path):
    path = store(tmp_path / "m.png", as_bytes(blob(1)[0]), "gray", "png")
    mask = read_mask(path, frames=5, height=32, width=48)
    assert torch.equal(mask, blob()) and mask.dtype == torch.float32


def test_transparency_is_the_mask(tmp_path):
    picture = np.full((32, 48, 4), 200, np.uint8)
    picture[..., 3] = as_bytes(blob(1)[0])
    path = store(tmp_path / "m.png", picture, "rgba", "png")
    assert torch.equal(read_mask(path, frames=5, height=32, width=48), blob())


def test_opaque_alpha_says_nothing(tmp_path):
    picture = as_bytes(blob(1)[0])[..., None].repeat(4, 2)
    picture[..., 3] = 255
    path = store(tmp_path / "m.png", picture, "rgba", "png")
    assert torch.equal(read_mask(path, frames=5, height=32, width=48), blob())


def test_webm_alpha_is_the_mask(tmp_path):
    picture = np.full((32, 48, 4), 128, np.uint8)
    picture[..., 3] = as_bytes(blob(1)[0])
    path = tmp_path / "m.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.options = 48, 32, "yuva420p", {"lossless": "1"}
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format="yuva420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert torch.equal(read_mask(path, frames=5, height=32, width=48), blob())


def test_soft_mask_on_demand(tmp_path):
    ramp = np.linspace(0, 255, 48).astype(np.uint8)[None].repeat(32, 0)
    path = store(tmp_path / "m.png", ramp, "gray", "png")
    soft = read_mask(path, frames=1, height=32, width=48, threshold=None)
    assert np.allclose(soft[0].numpy(), ramp / 255, atol=1e-6)


def test_smaller_mask_is_enlarged_without_blur(tmp_path):
    path = store(tmp_path / "m.png", as_bytes(blob(1)[0]), "gray", "png")
    mask = read_mask(path, frames=1, height=64, width=96)
    assert torch.equal(mask, blob(1).repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_larger_mask_keeps_its_thinnest_line(tmp_path):
    line = np.zeros((128, 192), np.uint8)
    line[:, 77] = 255
    mask = read_mask(store(tmp_path / "m.png", line, "gray", "png"), frames=1, height=32, width=48)
    assert mask.sum() == 32 and (mask[0, :, 77 // 4] == 1).all()


def test_size_within_rounding_is_taken(tmp_path):
    path = store(tmp_path / "m.png", np.full((100, 201), 255, np.uint8), "gray", "png")
    assert read_mask(path, frames=1, height=32, width=64).shape == (1, 32, 64)


def test_other_aspect_ratio_names_both_sizes(tmp_path):
    path = store(tmp_path / "m.png", as_bytes(blob(1)[0]), "gray", "png")
    with pytest.raises(MaskFileError, match="48x32.*32x32"):
        read_mask(path, frames=1, height=32, width=32)


def test_other_frame_count_names_both(tmp_path):
    path = write_mask(tmp_path / "m.mp4", blob(5))
    with pytest.raises(MaskFileError, match="5 frames, the clip 9"):
        read_mask(path, frames=9, height=32, width=48)
    assert read_mask(path, frames=4, height=32, width=48, max_frames=4).shape == (4, 32, 48)


def test_absent_mask_is_named(tmp_path):
    with pytest.raises(VideoReadError, match="nowhere.png does not exist"):
        read_mask(tmp_path / "nowhere.png", frames=5, height=32, width=48)
