"""What the benchmark's numbers, tables and pictures say, on data small enough to know the answer."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from benchmarks.edit_quality import figures, report
from benchmarks.edit_quality.cases import cases
from benchmarks.edit_quality.runs import ANSWER_TRIP, ROUND_TRIP
from benchmarks.edit_quality.statistics import RESAMPLES, certain_dominators, estimate, front, front_shares, rank_correlation

# statistics -----------------------------------------------------------------------------------------------------------


def test_the_interval_of_known_data():
    values = np.random.default_rng(3).normal(10.0, 2.0, 100)
    found = estimate(values)
    assert found.mean == pytest.approx(values.mean()) and found.spread == pytest.approx(values.std(ddof=1))
    assert found.low < 10.0 < found.high
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * found.spread / 10, rel=0.1)


def test_95_of_100_intervals_hold_the_truth():
    draws = np.random.default_rng(5).normal(0.0, 1.0, (100, 40))
    found = [estimate(values) for values in draws]
    assert 88 <= sum(e.low <= 0 <= e.high for e in found) <= 99


def test_the_sign_of_an_interval():
    assert estimate([1, 2, 3]).is_above_zero and not estimate([1, 2, 3]).is_below_zero
    assert estimate([-1, -2, -3]).is_below_zero
    both = estimate([-1, 0, 1])
    assert not both.is_above_zero and not both.is_below_zero


def test_unknown_values_are_left_out():
    assert estimate([1.0, float("nan"), 3.0, float("inf")]).mean == 2.0


def test_pairs_narrow_the_interval():
    random = np.random.default_rng(0)
    base = random.normal(25.0, 5.0, 60)
    better = base + random.normal(1.0, 0.3, 60)
    paired, alone = estimate(better - base), estimate(better)
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    assert paired.is_above_zero and alone.low < estimate(base).high


def test_the_front_with_ties():
    scores = {"a": (1.0, 3.0), "b": (2.0, 2.0), "tie in x, less y": (2.0, 1.0), "less in both": (0.0, 0.0), "twin of b": (2.0, 2.0)}
    assert front(scores) == {"a", "b", "twin of b"}


def test_shares_of_the_front():
    left, right = np.array([[1.0, 0.0]] * 4), np.array([[0.0, 1.0]] * 4)
    often = np.array([[2.0, 0.0]] * 3 + [[-2.0, 0.0]])
    shares = front_shares({"left": left, "right": right, "worse than left": left - 1})
    assert shares == {"left": 1.0, "right": 1.0, "worse than left": 0.0}
    shares = front_shares({"left": left, "often": often})
    # mean of `often` over 4 draws with k bad ones is 2 - k: ahead for k = 0, a tie, which both keep, for k = 1
    none, one = 0.75**4, 4 * 0.25 * 0.75**3
    assert shares["often"] == pytest.approx(none + one, abs=2 / RESAMPLES**0.5)
    assert shares["left"] == pytest.approx(1 - none, abs=2 / RESAMPLES**0.5)


def test_who_is_surely_better():
    random = np.random.default_rng(1)
    own = random.normal(0.0, 1.0, (50, 2))
    table = {
        "own": own,
        "both": own + [1.0, 1.0] + random.normal(0.0, 0.1, (50, 2)),
        "one": own + [1.0, 0.0],
        "by chance": own + random.normal(0.05, 3.0, (50, 2)),
    }
    assert certain_dominators(table, "own") == ["both"]
    assert certain_dominators(table, "both") == []


def test_ranks():
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(a, a**3) == pytest.approx(1.0)
    assert rank_correlation(a, -a) == pytest.approx(-1.0)
    assert rank_correlation(a, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)
    assert np.isnan(rank_correlation(a, np.ones(4)))


# report ---------------------------------------------------------------------------------------------------------------

METHODS = [("no lock", "base", "nothing is held"), ("held", "ours", ""), ("worse", "ours", "for the test")]
#: Two cases of each kind, tight and loose, still and moving: 16.
LISTED = cases("validation")[:16]
NAMES = [case.name for case in LISTED]
PSNR = {"no lock": 20.0, "held": 26.0, "worse": 18.0, ROUND_TRIP: 38.0, ANSWER_TRIP: 37.0}
#: By the case's place in the list.
RIGHT = {"no lock": lambda i: 1, "held": lambda i: i % 4 != 3, "worse": lambda i: 0, ROUND_TRIP: lambda i: 0, ANSWER_TRIP: lambda i: 1}


def row(i: int, method: str) -> dict:
    right = int(RIGHT[method](i))
    kept = {"psnr": PSNR[method] + i % 2, "ssim": 0.9, "drift": 1.234, "seam": 7.77, "flicker": None if method == "worse" else 0.5}
    edit = {"answer": PSNR[method] / 2, "right": right, "color_right": 1, "shape_right": right}
    return {"case": NAMES[i], "method": method, "rows": 40 if method == "no lock" else 60, **kept, **edit}


@pytest.fixture
def rows():
    return [row(i, method) for i in range(len(NAMES)) for method in PSNR]


def lines_of(text: str) -> dict[str, list[str]]:
    """Cells of a Markdown table by the first one."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in cells}


def test_the_main_table(rows):
    found = lines_of(report.main_table(rows, METHODS))
    # case by case +6 exactly, hence an interval without width; half of the cases have 1 dB more, hence +- 0.25
    assert found["held"][:6] == ["26.5 ± 0.2", "+6.0 [6.0, 6.0]", "0.900", "1.23", "7.8", "0.50"]
    assert found["held"][6:8] == ["13.0 ± 0.0", "75 ± 22"] and found["held"][8:11] == ["100", "75", "60"]
    assert found["no lock"][1] == "–" and found["no lock"][10] == "40"
    assert found["worse"][1] == "-2.0 [-2.0, -2.0]" and found["worse"][5] == "–" and found["worse"][7] == "0 ± 0"
    assert len({len(line) for line in found.values()}) == 1


def test_the_front_in_the_main_table(rows):
    found = lines_of(report.main_table(rows, METHODS))
    assert found["held"][-2:] == ["**yes**, 100 %", "–"]
    assert found["no lock"][-2].startswith("**yes**, ") and found["no lock"][-1] == "–"
    assert found["worse"][-2:] == ["0 %", "2"]


def test_ceilings_come_first_and_claim_no_edit(rows):
    text = report.main_table(rows, METHODS)
    found = lines_of(text)
    assert found[ROUND_TRIP][:2] == ["38.5 ± 0.2", "+18.0 [18.0, 18.0]"] and set(found[ROUND_TRIP][6:]) == {"–"}
    assert found[ANSWER_TRIP][7] == "100 ± 0" and found[ANSWER_TRIP][10:] == ["–", "–", "–"]
    names = ("*ceilings: what the VAE alone does*", ROUND_TRIP, ANSWER_TRIP, "*base*", "no lock", "*ours*")
    order = [text.index(f"| {name} |") for name in names]
    assert order == sorted(order)


def test_notes_and_the_base_are_named(rows):
    text = report.main_table(rows, METHODS, base="held")
    assert "gain over held (dB)" in text and lines_of(text)["no lock"][1] == "-6.0 [-6.0, -6.0]"
    assert "- **no lock**: nothing is held" in text and "- **held**" not in text


def test_cases_that_a_method_lacks_do_not_count(rows):
    spoiled = [{**r, "psnr": 90.0} if r["case"] == NAMES[0] else r for r in rows]
    kept = [r for r in spoiled if (r["case"], r["method"]) != (NAMES[0], "worse")]
    text = report.main_table(kept, METHODS)
    assert "over 15 cases that every method finished. 1 more" in text
    assert lines_of(text)["held"][0] == "26.5 ± 0.3"
    assert "over 16 cases that every method finished.\n" in report.main_table(rows, METHODS)


def test_a_wrong_answer_changes_the_table(rows):
    wrong = [{**r, "right": 0} if r["method"] == "held" else r for r in rows]
    assert lines_of(report.main_table(wrong, METHODS))["held"][7] == "0 ± 0"


def test_nothing_in_common_is_an_error(rows):
    kept = [r for r in rows if r["method"] != "worse"]
    with pytest.raises(report.ReportError, match="worse: 0"):
        report.main_table(kept, METHODS)


@pytest.mark.parametrize("value", [float("inf"), None])
def test_a_score_that_is_no_number_is_an_error(rows, value):
    rows[1]["psnr"] = value
    with pytest.raises(report.ReportError, match="not finite"):
        report.comparison(rows, rows[1]["method"], "held")


def test_kinds(rows):
    text = report.kind_table(rows, METHODS)
    heads = [f"{kind} (4)" for kind in ("color", "shape", "removal", "addition")]
    assert lines_of(text)["method"] == ["all (16)", *heads, "tight (8)", "loose (8)", "still (8)", "moving (8)"]
    for part, cell in zip(("kind", "mask", "background"), (1, 5, 7)):
        first = {"kind": "color", "mask": "tight", "background": "still"}[part]
        mine = [i for i, case in enumerate(LISTED) if getattr(case, part) == first]
        right = 100 * np.mean([i % 4 != 3 for i in mine])
        assert lines_of(text)["held"][cell] == f"{right:.0f} / {26 + np.mean([i % 2 for i in mine]):.1f}"


def test_a_kind_without_cases_has_no_value(rows):
    color = {case.name for case in LISTED if case.kind == "color"}
    found = lines_of(report.kind_table([r for r in rows if r["case"] in color], METHODS))
    assert found["method"][2] == "shape (0)" and found["held"][2] == "–" and found["held"][1] == found["held"][0]


def test_cases_of_an_older_list_are_an_error(rows):
    for r in rows:
        r["case"] = "older-" + r["case"]
    with pytest.raises(report.ReportError, match="older-"):
        report.kind_table(rows, METHODS)


def test_the_comparison(rows):
    text = report.comparison(rows, "held", "no lock")
    gains = "background +6.0 dB [6.0, 6.0], edit to exact answer +3.0 dB [3.0, 3.0], right -25 points [-"
    assert text.startswith("held against no lock: " + gains)
    assert text.endswith(" (16 cases).")
    assert report.comparison(rows, "held", "held").count("0.0 dB [0.0, 0.0]") == 2
    assert "-6.0 dB [-6.0, -6.0]" in report.comparison(rows, "no lock", "held")


def test_numbers_have_no_signed_zero():
    assert [report.number(v, 1, "+") for v in (-0.04, 0.04, 1.26, -1.26)] == ["0.0", "0.0", "+1.3", "-1.3"]


# figures --------------------------------------------------------------------------------------------------------------

POINTS = {"a": (20.0, 90.0, 19.0, 21.0, 80.0, 97.0), "b": (30.0, 50.0, 29.0, 31.0, 40.0, 60.0), "c": (20.0, 50.0, 19.0, 21.0, 40.0, 60.0)}
GROUPS = {"a": "ours", "b": "theirs", "c": "ours"}


def shades(image: Image.Image) -> int:
    return len(np.unique(np.asarray(image.convert("L"))))


def test_the_pareto_picture(tmp_path):
    figures.pareto(tmp_path / "star_a.png", POINTS, GROUPS, {"a", "b"}, "a")
    figures.pareto(tmp_path / "star_c.png", POINTS, GROUPS, {"a", "b"}, "c", y_label="edit to exact answer (dB)")
    first, second = (Image.open(tmp_path / name) for name in ("star_a.png", "star_c.png"))
    assert first.width == 1400 and shades(first) > 20
    assert first.tobytes() != second.tobytes()


def test_the_star_the_bars_and_the_front_are_in_their_places(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, file: drawn.append(figure))
    figures.pareto(tmp_path / "x.png", POINTS, GROUPS, {"b", "a"}, "c", x_label="over here")
    axes = drawn[0].axes[0]
    lines = [np.asarray(line.get_data(orig=True), float).T.tolist() for line in axes.lines]
    stars = [data for line, data in zip(axes.lines, lines) if line.get_marker() == "*"]
    assert stars == [[[20.0, 50.0]]] and axes.get_xlabel() == "over here"
    assert [[20.0, 90.0], [30.0, 50.0]] in lines, "no front"
    assert [[19.0, 90.0], [21.0, 90.0]] in lines and [[20.0, 80.0], [20.0, 97.0]] in lines, "no bars"
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3"]
    listed = [text.get_text() for text in drawn[0].texts]
    assert listed[:8] == ["ours", "1", "a", "2", "c", "theirs", "3", "b"]


@pytest.mark.parametrize("front, star", [({"a"}, "nobody"), ({"nobody"}, "a")])
def test_an_unknown_method_is_an_error(tmp_path, front, star):
    with pytest.raises(figures.FigureError, match="nobody"):
        figures.pareto(tmp_path / "x.png", POINTS, GROUPS, front, star)


def test_numbers_lie_on_nothing():
    points = np.random.default_rng(2).uniform(100, 400, (30, 2))
    points[1] = points[0]
    sizes = np.full(30, figures.MARKER)
    labels = figures.spread(points, sizes, np.array([0, 0]), np.array([500, 500]))
    room = np.array([figures.NUMBER_WIDTH, figures.NUMBER_HEIGHT]) - 1.0
    assert all((np.abs(a - b) >= room).any() for a, b in combinations(labels, 2))
    assert all((np.abs(a - b) >= room / 2 + 3).any() for a in labels for b in points)
    assert np.abs(labels - points).max() < 60


def test_numbers_stay_in_the_frame():
    points = np.array([[0.0, 0.0], [100.0, 100.0], [0.0, 100.0]])
    labels = figures.spread(points, np.full(3, figures.MARKER), np.array([0, 0]), np.array([100, 100]))
    assert (labels > 0).all() and (labels < 100).all()


def picture(value: int, side: int = 32) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_the_contact_sheet(tmp_path):
    rows = [("clip 1", [("source", picture(10)), ("answer", picture(200))]), ("clip 2", [("source", picture(60)), ("answer", picture(90))])]
    figures.contact_sheet(tmp_path / "sheet.png", rows)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    high, wide = 2 * (64 + figures.GAP), 2 * (64 + figures.GAP)
    grid = pixels[-high:, -wide:]
    assert [grid[32, 32, 0], grid[32, 100, 0], grid[100, 32, 0], grid[100, 100, 0]] == [10, 200, 60, 90]
    assert (grid[:64, :64] == 10).all() and (grid[:64, 64 : 64 + figures.GAP] == 255).all()
    assert (pixels[:-high, -wide:] < 128).any() and (pixels[-high:, :-wide] < 128).any(), "no labels"


def test_the_contact_sheet_as_jpeg(tmp_path):
    noise = np.random.default_rng(0).integers(100, 156, (14, 128, 128, 3), np.uint8)
    rows = [("clip", [(str(i), one) for i, one in enumerate(noise)])]
    with pytest.raises(figures.FigureError, match="jpg"):
        figures.contact_sheet(tmp_path / "sheet.png", rows)
    figures.contact_sheet(tmp_path / "sheet.jpg", rows)
    assert not (tmp_path / "sheet.png").exists()
    assert Image.open(tmp_path / "sheet.jpg").format == "JPEG" and 0 < (tmp_path / "sheet.jpg").stat().st_size <= figures.MOST_BYTES


def test_rows_with_other_columns_are_an_error(tmp_path):
    rows = [("one", [("source", picture(0))]), ("two", [("mask", picture(0))])]
    with pytest.raises(figures.FigureError, match="two"):
        figures.contact_sheet(tmp_path / "sheet.png", rows)


def curves() -> dict:
    lines = {}
    for steps in (8, 20):
        sigmas = np.linspace(1.0, 1 / steps, steps)
        for shift, by in (("1", 1.0), ("3", 2.0)):
            lines[f"{steps} steps, shift {shift}, euler, cfg 4"] = (sigmas, by * np.exp(sigmas))
    same = {label: (sigmas, np.exp(sigmas)) for label, (sigmas, _) in lines.items()}
    return {"raw": lines, "collapsed": same}


def test_the_signal_picture(tmp_path):
    figures.signal_lines(tmp_path / "both.png", curves())
    figures.signal_lines(tmp_path / "one.png", {"raw": curves()["raw"]})
    both, one = (Image.open(tmp_path / name) for name in ("both.png", "one.png"))
    assert both.width == 2 * one.width and shades(both) > 20


def test_one_curve_has_ratio_one():
    assert figures.ratio_between(list(curves()["collapsed"].values())) == pytest.approx(1.0, abs=1e-6)
    assert figures.ratio_between(list(curves()["raw"].values())) == pytest.approx(2.0, abs=1e-6)
    apart = [(np.array([1.0, 0.8]), np.ones(2)), (np.array([0.5, 0.2]), np.ones(2))]
    assert np.isnan(figures.ratio_between(apart)) and np.isnan(figures.ratio_between([(np.array([1.0, 0.5]), np.zeros(2))]))


def test_samplings_look_different():
    labels = [f"{steps} steps, shift {shift}, {rest}" for steps in (8, 20) for shift in (1, 3) for rest in ("euler, cfg 4", "unipc, cfg 4")]
    looks = figures.looks_of([*labels, "50 steps, shift 5, euler, cfg 4"])
    assert len({str(looks.of(label)) for label in labels}) == len(labels)
    assert looks.of(labels[0])["marker"] == "" and looks.of(labels[1])["marker"] != ""
    assert looks.of(labels[0])["color"] == looks.of(labels[2])["color"] != looks.of(labels[4])["color"]
    with pytest.raises(figures.FigureError, match="many steps"):
        figures.looks_of(["many steps"])
