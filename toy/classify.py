"""Which object does a clip show? A classifier of colour and shape with nothing to train; tested on real scenes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .shapes import COLORS, SHAPES, Thing, coverage

# A pixel belongs to an object colour if it is nearer to it than this (RGB distance), so backgrounds never count.
COLOR_REACH = 0.32
LEAST_AREA = 220
# An object that touches the border shows too little of its outline to be named.
BORDER = 2
# Template sizes that are tried, relative to the one that a patch's extent suggests.
SCALES = np.linspace(0.75, 1.3, 10)


@dataclass(frozen=True)
class Sighting:
    """What was seen: `share` of the looked-at frames agree on the shape; None where nothing was found."""

    color: str | None
    shape: str | None
    share: float = 0.0


NOTHING = Sighting(None, None)


def look(frames: np.ndarray, within: np.ndarray | None = None) -> Sighting:
    """The object in `frames` (F,H,W,3) in [0,1]; `within` (F,H,W) restricts where to look."""
    spots = [spot for spot in map(largest_spot, frames, [None] * len(frames) if within is None else within) if spot]
    if len(spots) < len(frames) / 3:
        return NOTHING
    color = Counter(name for name, _ in spots).most_common(1)[0][0]
    whole = [shape_of(area) for name, area in spots if name == color and is_whole(area)]
    if not whole:
        return Sighting(color, None)
    shape, votes = Counter(whole).most_common(1)[0]
    return Sighting(color, shape, votes / len(whole))


def largest_spot(frame: np.ndarray, within: np.ndarray | None) -> tuple[str, np.ndarray] | None:
    """Colour name and pixels (H,W) of the largest connected patch of one object colour."""
    palette = np.asarray(list(COLORS.values()), np.float32)
    far = np.linalg.norm(frame[:, :, None] - palette, axis=-1)
    nearest, reached = far.argmin(-1), far.min(-1) < COLOR_REACH
    if within is not None:
        reached &= within > 0.5
    found = []
    for index, name in enumerate(COLORS):
        labels, count = ndimage.label(reached & (nearest == index))
        if count:
            sizes = np.bincount(labels.ravel())[1:]
            found.append((sizes.max(), name, labels == sizes.argmax() + 1))
    size, name, area = max(found, key=lambda spot: spot[0], default=(0, "", None))
    return (name, area) if size >= LEAST_AREA else None


def is_whole(area: np.ndarray) -> bool:
    inner = area[BORDER:-BORDER, BORDER:-BORDER]
    return inner.sum() == area.sum()


def shape_of(area: np.ndarray) -> str:
    """The shape whose outline, in its best size and place, overlaps the pixels most."""
    return max(SHAPES, key=lambda shape: max(overlap(area, shape, radius) for radius in likely_radii(area)))


def likely_radii(area: np.ndarray) -> list[float]:
    """Radii around the mean half extent of the patch."""
    rows, columns = np.nonzero(area)
    extent = (np.ptp(rows) + np.ptp(columns) + 2) / 4
    return [float(scale * extent) for scale in SCALES]


def overlap(area: np.ndarray, shape: str, radius: float) -> float:
    """Intersection over union with a template laid onto the patch's centre of area."""
    y, x = ndimage.center_of_mass(area)
    height, width = area.shape
    thing = Thing(shape, (0.0, 0.0, 0.0), radius, ((x + 0.5, y + 0.5),))
    template = coverage(thing, max(height, width))[0, :height, :width] > 0.5
    return float((area & template).sum() / max((area | template).sum(), 1))
