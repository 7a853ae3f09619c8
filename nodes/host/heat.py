"""The picture of where the risk is, small enough to be sent with every step."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ...kvlock_core import RiskWindow

#: Cells on the long side. A latent of 480p is about twice as fine, more than a picture beside a chart can show.
LONG_SIDE = 48
#: A cell is sent as a share of the highest one in whole steps; UNKNOWN lies outside the edit mask.
LEVELS, UNKNOWN = 255, -1


def heat_of(window: RiskWindow) -> dict | None:
    """JSON's own types: `width`, `height`, `max` (the risk of the highest cell), `levels` row by row. None if unknown."""
    found = window.risk_map()
    if found is None:
        return None
    cells = shrunk(found)
    high = float(zero_for_unknown(cells).max())
    if not math.isfinite(high):  # JSON has no such number
        return None
    levels = (cells / high * LEVELS if high > 0 else cells * 0.0).nan_to_num(UNKNOWN).round().int()
    return {"width": cells.shape[1], "height": cells.shape[0], "max": rounded(high), "levels": levels.flatten().tolist()}


def shrunk(cells: Tensor) -> Tensor:
    """(h,w) -> at most LONG_SIDE on the long side; a mean over what is known, NaN where nothing is."""
    share = LONG_SIDE / max(cells.shape)
    if share >= 1.0:
        return cells.cpu()
    size = [max(1, round(side * share)) for side in cells.shape]
    known = (~cells.isnan()).float()
    both = adaptive_avg_pool2d(torch.stack([zero_for_unknown(cells), known])[None], size)[0].cpu()
    return both[0] / both[1]


def zero_for_unknown(cells: Tensor) -> Tensor:
    return cells.nan_to_num(0.0, posinf=math.inf)  # an infinite risk is known


def rounded(value: float) -> float:
    """Three digits; more say nothing here and are as long as the rest of the message."""
    return float(f"{value:.3g}")
