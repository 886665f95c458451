"""The rules of the audit: how far from print a recomputed number may lie by chance, and what is said of it.

What chance is depends on the measure. Published and released Top-1 are about the same images, so only the difference
between two runs is left (`tslab.benchmark.comparison.run_noise`). R2 and geo-bias are about independent draws, so
the difference of two numbers scatters by sqrt(2) times as much as one of them (`draw_noise`).
"""

import math

from tslab._checks import check_number
from tslab._files import packaged_json

_TEXTS = packaged_json("verdicts.json")
VERDICTS: dict[str, str] = _TEXTS["verdicts"]
"""Verdict of a cell and what it says, in order of precedence."""

REASONS: dict[str, str] = _TEXTS["reasons"]
"""Reason for a verdict and what it says."""

MARKS: dict[str, str] = _TEXTS["marks"]
"""What the marks in the published tables mean."""

ROUNDING = 0.005
"""Half a unit of the last printed digit, of every published number."""


def draw_noise(recomputed: float, low: float, high: float) -> float:
    """How far a published number may lie from ours by chance if both come from independent draws of one size.

    sqrt((recomputed - low)^2 + (high - recomputed)^2) + 0.005: the 95 % interval of a difference from the intervals
    of its two terms (Zou and Donner 2008), both taken as wide as ours, plus the rounding of print. For a symmetric
    interval this is sqrt(2) times its half-width. What it leaves out is another training of the model.
    """
    for name, number in (("recomputed", recomputed), ("low", low), ("high", high)):
        check_number(name, number)
    return math.hypot(recomputed - low, high - recomputed) + ROUNDING


def judge(
    metric: str,
    encoder: str,
    published: float,
    recomputed: float,
    noise: float,
    spread: float = math.inf,
) -> tuple[str, str]:
    """Verdict and reason of a cell that was recomputed: the rule.

    ``reproduced`` if the two numbers are at most half a unit of the last printed digit apart (1e-9 for rounding),
    except for geo-bias, which is drawn at random; else ``differs`` if they are further apart than ``noise``; else
    ``undecided`` if the noise is unknown (NaN) or, for geo-bias, if 2 ``noise`` is wider than ``spread``; else
    ``another run`` for Top-1 and ``within noise`` for R2 and geo-bias.

    The reason of geo-bias is always ``inferred recipe``, of tile ``one-cell tile``. Of the others: reproduced, ``same
    results`` (Top-1) or ``same digits`` (R2); unknown noise, ``no second encoder``; left to chance, ``another run``
    (Top-1) or ``another draw`` (R2); different, ``reloaded rbf`` or ``reloaded rff`` for a Top-1 of these two below
    print, else ``unexplained``.

    Args:
        metric: ``top1``, ``r2``, ``geobias_base`` or ``geobias_relative``.
        encoder: row of the table.
        published, recomputed: the two numbers.
        noise: how far apart they may be by chance, rounding included.
        spread: largest minus smallest published number of the column.
    """
    for name, number in (("published", published), ("recomputed", recomputed)):
        check_number(name, number)
    geobias, top1 = metric.startswith("geobias"), metric == "top1"
    apart = abs(recomputed - published)
    if apart <= ROUNDING + 1e-9 and not geobias:
        verdict, reason = "reproduced", "same results" if top1 else "same digits"
    elif apart > noise:
        broken = top1 and encoder in ("rbf", "rff") and recomputed < published
        verdict, reason = "differs", f"reloaded {encoder}" if broken else "unexplained"
    elif math.isnan(noise) or (geobias and 2 * noise > spread):
        verdict, reason = "undecided", "no second encoder"
    else:
        verdict, reason = ("another run", "another run") if top1 else ("within noise", "another draw")
    if geobias:
        return verdict, "inferred recipe"
    return verdict, "one-cell tile" if encoder == "tile" else reason
