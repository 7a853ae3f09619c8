"""Pictures of the outcome: who trades background for success, what the edits look like, and which signal is one curve."""

from __future__ import annotations

import io
import re
import textwrap
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib import colormaps, font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageDraw, ImageFont

#: Colours that colour-blind people can tell apart (Okabe and Ito 2008), without the yellow, which is pale on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
#: A second code for the groups, for grey prints and for more groups than colours.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h", "<", ">")
LINE_STYLES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2, 1, 2, 1, 2)))
#: Pictures are DPI * inches wide; 14 inches are 1400 px.
DPI = 100

Point = tuple[float, float, float, float, float, float]


class FigureError(ValueError):
    """What was asked for cannot be drawn; the message says what to change."""


# the trade-off --------------------------------------------------------------------------------------------------------

WIDTH, MARGIN, LEGEND_LETTER, LEGEND_LINE, LEGEND_TITLE = 1400, 70, 7.6, 15, 24  # px
NUMBER_WIDTH, NUMBER_HEIGHT = 21, 14  # px of a two-digit label, with some air
MARKER, STAR = 7, 20  # pt
#: Where a number may be, seen from its point: px, and angles in the order of preference, above and below first.
RADII, ANGLES = np.arange(13, 160, 5), np.pi / 2 + np.pi / 8 * np.array([0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15])


def pareto(
    file: Path,
    points: dict[str, Point],
    groups: dict[str, str],
    front: set[str],
    highlighted: str,
    x_label: str = "background PSNR (dB)",
    y_label: str = "foreground success (%)",
) -> None:
    """Every method as a numbered point with its 95 % intervals; `points[name]` is (x, y, x_low, x_high, y_low, y_high).

    The line joins the `front`; nothing is above and to the right of it. `highlighted` is drawn as a star. Raises FigureError.
    """
    missing = [name for name in (highlighted, *front) if name not in points]
    if missing:
        raise FigureError(f"no points for {', '.join(missing)}; the methods are {', '.join(points)}")
    names = _by_group(points, groups)
    looks = {group: (COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]) for i, group in enumerate(_unique(groups[n] for n in names))}
    height = max(760, LEGEND_LINE * (len(names) + 2 * len(looks) + 2) + MARGIN)
    legend = round(LEGEND_LETTER * max(map(len, [*names, *looks]))) + 60
    figure = Figure((WIDTH / DPI, height / DPI), dpi=DPI)
    sides = (MARGIN / WIDTH, MARGIN / height, 1 - (MARGIN + legend + 10) / WIDTH, 1 - (MARGIN + 20) / height)
    axes = figure.add_axes(sides, xlabel=x_label, ylabel=y_label)
    _draw_front(axes, [points[name] for name in front])
    for name in names:
        _draw_point(axes, points[name], *looks[groups[name]], is_star=name == highlighted)
    sizes = np.array([STAR if name == highlighted else MARKER for name in names])
    _number(figure, axes, np.array([points[name][:2] for name in names], float), sizes, [looks[groups[name]][0] for name in names])
    _draw_legend(figure, (WIDTH - legend) / WIDTH, names, groups, looks, front, highlighted)
    axes.grid(alpha=0.25)
    figure.savefig(file)


def _unique(names) -> list[str]:
    return list(dict.fromkeys(names))


def _by_group(points: dict[str, Point], groups: dict[str, str]) -> list[str]:
    """Names with those of a group next to each other, else in the given order: the order of the numbers."""
    order = _unique(groups[name] for name in points)
    return sorted(points, key=lambda name: order.index(groups[name]))


def _draw_front(axes: Axes, points: list[Point]) -> None:
    """Down and to the right; a point rules over all that is left of it and below it."""
    ends = sorted((x, y) for x, y, *_ in points)
    axes.step(*zip(*ends), where="pre", color="#555555", linewidth=1.2, zorder=1)


def _draw_point(axes: Axes, point: Point, color: str, marker: str, is_star: bool) -> None:
    x, y, x_low, x_high, y_low, y_high = point
    axes.plot([x_low, x_high], [y, y], color=color, linewidth=0.7, alpha=0.35, zorder=2)
    axes.plot([x, x], [y_low, y_high], color=color, linewidth=0.7, alpha=0.35, zorder=2)
    shape, size = ("*", STAR) if is_star else (marker, MARKER)
    axes.plot(x, y, marker=shape, markersize=size, color=color, markeredgecolor="white", markeredgewidth=0.8, zorder=4 if is_star else 3)


def _number(figure: Figure, axes: Axes, places: np.ndarray, sizes: np.ndarray, colors: list[str]) -> None:
    """Writes 1, 2, ... near the `places` (n,2), joined to them by a hair line."""
    figure.draw_without_rendering()  # settles the scales
    axes.autoscale(False)
    there = axes.transData.transform(places)
    box = axes.get_window_extent()
    free = spread(there, sizes, np.array([box.x0, box.y0]), np.array([box.x1, box.y1]))
    for number, (spot, label, color) in enumerate(zip(places, axes.transData.inverted().transform(free), colors), 1):
        axes.plot(*zip(spot, label), color=color, linewidth=0.9, alpha=0.8, zorder=2)
        pad = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        axes.text(*label, str(number), fontsize=8.5, color=color, ha="center", va="center", weight="bold", bbox=pad, zorder=5)


def spread(points: np.ndarray, sizes: np.ndarray, lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """Places (n,2) in px for one number per point: near it, inside the frame, on no other number and on no point.

    `sizes` (n,) of the points in pt. Each number takes the nearest free place; without one, that with the least overlap.
    """
    number = np.array([NUMBER_WIDTH, NUMBER_HEIGHT])
    around = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
    offsets = (RADII[:, None, None] * around).reshape(-1, 2)  # nearest first
    labels = np.empty((0, 2))
    for point in points:
        places = np.clip(point + offsets, lowest + number / 2, highest - number / 2)
        covered = _overlap(places, labels, number) + _overlap(places, points, (number + sizes[:, None] * DPI / 72) / 2)
        labels = np.vstack([labels, places[covered.argmin()]])
    return labels


def _overlap(places: np.ndarray, others: np.ndarray, room: np.ndarray) -> np.ndarray:
    """(places,) px² by which a box at each place covers the boxes of `others`; `room` is how far centres must be apart."""
    return np.clip(room - np.abs(places[:, None] - others[None]), 0, None).prod(-1).sum(1)


def _draw_legend(figure: Figure, left: float, names: list[str], groups: dict, looks: dict, front: set, highlighted: str) -> None:
    """One line per point below its group's name; those on the front are bold."""
    height = figure.get_figheight() * DPI
    top, number = 1 - 20 / height, 0
    for group, (color, marker) in looks.items():
        figure.text(left, top, group, fontsize=9.5, color=color, weight="bold", va="top")
        top -= LEGEND_LINE / height
        for name in (name for name in names if groups[name] == group):
            number += 1
            weight = "bold" if name in front else "normal"
            figure.text(left + 22 / WIDTH, top, str(number), fontsize=8.5, weight=weight, color=color, va="top", ha="right")
            figure.text(left + 44 / WIDTH, top, name, fontsize=8.5, weight=weight, va="top")
            shape = ("*", 13) if name == highlighted else (marker, MARKER)
            look = {"marker": shape[0], "markersize": shape[1], "color": color, "markeredgecolor": "white"}
            figure.add_artist(Line2D([left + 33 / WIDTH], [top - 6 / height], **look))
            top -= LEGEND_LINE / height
        top -= (LEGEND_TITLE - LEGEND_LINE) / height
    figure.text(left, top, "bold: on the front (grey line)\nbars: 95 % intervals", fontsize=8.5, color="#555555", va="top")


# what edits look like -------------------------------------------------------------------------------------------------

ZOOM, GAP, TYPE, LABEL_LETTERS = 2, 4, 24, 18
MOST_BYTES, JPEG_QUALITIES = 600_000, (90, 85, 80, 75)


def contact_sheet(file: Path, rows: list[tuple[str, list[tuple[str, np.ndarray]]]]) -> None:
    """A grid of pictures (H,W,3) uint8, twice as large; rows and columns have names. PNG, or JPEG if `file` ends in .jpg.

    Raises FigureError if rows have other columns than the first one, or if the file would be over MOST_BYTES.
    """
    columns = [label for label, _ in rows[0][1]]
    for label, cells in rows:
        if [name for name, _ in cells] != columns:
            raise FigureError(f"row {label!r} has other columns than {columns}; give every row the same methods in the same order")
    high, wide = (ZOOM * side for side in rows[0][1][0][1].shape[:2])
    heads = [_wrapped(name, wide) for name in columns]
    left, top = LABEL_LETTERS * TYPE // 2 + 2 * GAP, max(len(head.splitlines()) for head in heads) * (TYPE + 4) + 2 * GAP
    sheet = Image.new("RGB", (left + len(columns) * (wide + GAP), top + len(rows) * (high + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, head in enumerate(heads):
        pen.multiline_text((left + i * (wide + GAP) + wide / 2, top - GAP), head, "black", _font(), anchor="md", align="center")
    for j, (label, cells) in enumerate(rows):
        middle = top + j * (high + GAP) + high / 2
        pen.multiline_text((GAP, middle), _wrapped(label, left), "black", _font(), anchor="lm")
        for i, (_, picture) in enumerate(cells):
            zoomed = Image.fromarray(picture.repeat(ZOOM, 0).repeat(ZOOM, 1))
            sheet.paste(zoomed, (left + i * (wide + GAP), top + j * (high + GAP)))
    _save(sheet, file)


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, max(6, round(width / (0.58 * TYPE))))


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The font that matplotlib ships: the same on every computer."""
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), TYPE)


def _save(sheet: Image.Image, file: Path) -> None:
    """The best JPEG quality that fits into MOST_BYTES; a PNG is never degraded."""
    is_jpeg = file.suffix.lower() in (".jpg", ".jpeg")
    ways = [{"format": "JPEG", "quality": quality} for quality in JPEG_QUALITIES] if is_jpeg else [{"format": "PNG"}]
    data = next((data for data in (_encoded(sheet, how) for how in ways) if len(data) <= MOST_BYTES), None)
    if data is None:
        advice = "show fewer clips or methods" if is_jpeg else "let its name end in .jpg, or show fewer clips or methods"
        raise FigureError(f"{file.name} would be larger than {MOST_BYTES} bytes; {advice}")
    file.write_bytes(data)


def _encoded(sheet: Image.Image, how: dict) -> bytes:
    data = io.BytesIO()
    sheet.save(data, optimize=True, **how)
    return data.getvalue()


# which form of the signal is one curve --------------------------------------------------------------------------------

PANELS_ACROSS, PANEL_WIDTH, PANEL_HEIGHT = 3, 4.6, 3.5
#: As recordings.label() writes it: steps, shift, and whatever else there is.
SAMPLING = re.compile(r"(\d+) steps, shift ([\d.]+)(?:, )?(.*)")

Curve = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Looks:
    """How the lines of samplings are told apart: colour by steps, line by shift, marker by the rest."""

    colors: dict[int, tuple]
    lines: dict[float, object]
    markers: dict[str, str]

    def of(self, label: str) -> dict:
        steps, shift, rest = sampling_of(label)
        return {"color": self.colors[steps], "linestyle": self.lines[shift], "marker": self.markers[rest]}


def signal_lines(file: Path, curves: dict[str, dict[str, Curve]]) -> None:
    """One panel per form of the signal, one line per sampling: `curves[form][sampling]` is (sigmas, values).

    A form that collapses to one curve needs no knowledge of steps and shift. Values of 0 and below have no place on a
    log axis and are left out.
    """
    looks = looks_of(_unique(label for lines in curves.values() for label in lines))
    down = ceil(len(curves) / PANELS_ACROSS)
    across = ceil(len(curves) / down)
    figure = Figure((PANEL_WIDTH * across, PANEL_HEIGHT * down + 0.9), dpi=DPI, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (name, lines) in zip(panels, curves.items()):
        _draw_panel(axes, name, lines, looks)
    for axes in panels[len(curves) :]:
        axes.remove()
    figure.legend(handles=_keys(looks), loc="outside lower center", ncols=2 * across, fontsize=9, frameon=False)
    figure.savefig(file)


def sampling_of(label: str) -> tuple[int, float, str]:
    """(steps, shift, rest) of "20 steps, shift 3, euler, cfg 4". Raises FigureError."""
    found = SAMPLING.fullmatch(label)
    if found is None:
        raise FigureError(f"cannot read the sampling {label!r}; name it as '20 steps, shift 3, euler, cfg 4'")
    return int(found[1]), float(found[2]), found[3]


def looks_of(labels: list[str]) -> Looks:
    """Few steps are dark, many are light. The rest that most samplings have gets no marker."""
    steps, shifts, rests = (list(column) for column in zip(*map(sampling_of, labels)))
    shades = sorted(set(steps))
    colors = {n: colormaps["viridis"](0.85 * i / max(1, len(shades) - 1)) for i, n in enumerate(shades)}
    lines = {shift: LINE_STYLES[i % len(LINE_STYLES)] for i, shift in enumerate(sorted(set(shifts)))}
    by_count = sorted(_unique(rests), key=rests.count, reverse=True)
    return Looks(colors, lines, {rest: ("", *MARKERS)[i % (len(MARKERS) + 1)] for i, rest in enumerate(by_count)})


def _draw_panel(axes: Axes, name: str, lines: dict[str, Curve], looks: Looks) -> None:
    for label, (sigmas, values) in lines.items():
        drawable = np.where(np.asarray(values, float) > 0, values, np.nan)
        axes.plot(sigmas, drawable, **looks.of(label), linewidth=1.1, markersize=3, markevery=0.2, alpha=0.85)
    axes.set(xlim=(1.02, -0.02), yscale="log", xlabel="noise level sigma (sampling goes to the right)")
    axes.set_title(f"{name}\nlargest / smallest line: {ratio_between(list(lines.values())):,.1f}", fontsize=10)
    axes.grid(alpha=0.25)


def ratio_between(lines: list[Curve]) -> float:
    """Largest over smallest line at the same sigma, median over the sigmas that all lines reach: 1 is one curve.

    NaN if the lines have no sigma in common.
    """
    known = [(s[v > 0], v[v > 0]) for s, v in ((np.asarray(s, float), np.asarray(v, float)) for s, v in lines)]
    lowest, highest = max(s.min(initial=1.0) for s, _ in known), min(s.max(initial=0.0) for s, _ in known)
    if lowest >= highest:
        return float("nan")
    grid = np.linspace(lowest, highest, 101)
    logs = np.stack([np.interp(grid, s[::-1], np.log(v)[::-1]) for s, v in known])
    return float(np.exp(np.median(logs.max(0) - logs.min(0))))


def _keys(looks: Looks) -> list[Line2D]:
    steps = [Line2D([], [], color=color, linewidth=3, label=f"{n} steps") for n, color in looks.colors.items()]
    shifts = [Line2D([], [], color="black", linestyle=line, label=f"shift {shift:g}") for shift, line in looks.lines.items()]
    rests = [Line2D([], [], color="black", marker=mark, label=rest or "plain") for rest, mark in looks.markers.items()]
    return steps + shifts + (rests if len(rests) > 1 else [])
