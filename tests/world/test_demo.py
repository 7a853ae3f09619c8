"""The demo end to end on the committed weights, in two steps instead of fifty."""

import json
from dataclasses import replace

import pytest

from kvlock_diffusers import commands
from kvlock_core import LockSchedule, SessionSettings
from kvlock_diffusers.demo import ALONE, FILES, KVLOCK, UNLOCKED, case, methods
from kvlock_diffusers.options import edit_settings, parser
from kvlock_diffusers.video import read_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "output"
    assert commands.main(["demo", "--out", str(out), "--steps", "2", "--shape", "cross"]) == 0
    return out


def test_every_file_is_there(folder):
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_the_report_tells_what_was_done(folder):
    report = json.loads((folder / "report.json").read_text())
    assert report["goal"]["shape"] == "cross" and report["settings"]["steps"] == 2
    assert report["vae_round_trip"]["psnr"] > max(run["psnr"] for run in report["methods"].values())
    assert [len(trace["steps"]) for trace in report["traces"].values()] == [2, 2, 2]
    text = (folder / "report.md").read_text()
    assert KVLOCK in text and UNLOCKED in text and "comparison.png" in text


def test_the_video_shows_six_panels_of_the_whole_clip(folder):
    video = read_video(folder / "comparison.mp4")
    frames, height, width, _ = video.frames.shape
    assert frames == 17 and width >= 6 * 256 and height >= 256


def test_a_second_demo_keeps_the_first(folder, capsys):
    before = (folder / "report.md").read_bytes()
    assert commands.main(["demo", "--out", str(folder), "--steps", "2"]) == 1
    assert "exists" in capsys.readouterr().err and (folder / "report.md").read_bytes() == before


def compared():
    """What the demo compares if everything that it can switch on is on."""
    asked = edit_settings(parser().parse_args(["demo", "--guidance", "risk", "--projection", "--seed", "3"]))
    assert asked.composite and asked.session.guidance is not None and asked.session.projection
    return methods(asked) | {"asked": asked}


def test_without_a_lock_nothing_is_locked_guided_or_projected():
    plain = compared()[UNLOCKED]
    assert plain.session.lock is None and plain.session.guidance is None and not plain.session.projection
    assert not plain.composite


def test_the_lock_alone_is_as_hard_as_it_goes_and_nothing_else():
    alone = compared()[ALONE]
    assert alone.session == SessionSettings(lock=LockSchedule("constant", ceiling=1.0, start_percent=0.0, end_percent=1.0))
    assert not alone.composite


def test_kv_lock_is_what_was_asked_for_and_all_else_is_shared():
    ways = compared()
    assert ways[KVLOCK] is ways["asked"] and list(ways)[:3] == [UNLOCKED, ALONE, KVLOCK]
    shared = [replace(way, session=SessionSettings(), composite=True) for way in ways.values()]
    assert shared.count(shared[0]) == len(shared)


def test_a_case_changes_what_it_is_told_to():
    assert case(3, shape="cross").goal[1] == "cross" and case(3, color="red").goal[0] == "red"
    plain = case(3)
    assert plain.retold.color != plain.told.color and plain.retold.shape == plain.told.shape
