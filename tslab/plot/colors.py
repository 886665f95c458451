"""Colours: one for each encoder family, scales for fields, tokens for the page around a figure.

They are chosen here and nowhere else. Plotly, matplotlib and the widget's style sheet (`css_tokens`) all read them.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import plotly.colors
from numpy.typing import NDArray

from tslab._checks import check_number
from tslab.encoders import ENCODERS

FAMILY_COLORS = {
    "baseline": "#565f67",
    "planar": "#d68b00",
    "kernel": "#c986b6",
    "multi-scale planar": "#b14400",
    "spherical": "#8196f6",
    "sphere2vec": "#0364a4",
    "harmonic": "#099f6d",
}
"""One colour for each encoder family. Close to Okabe and Ito's, moved apart until every pair differs by more
than 20 CIELAB units for readers with protan, deutan and tritan vision too, and until each has a contrast of
2.7 on the white and on the dark page."""


FAMILY_DASHES = {
    "baseline": "dot",
    "planar": "dash",
    "kernel": "dashdot",
    "multi-scale planar": "longdash",
    "spherical": "dash",
    "sphere2vec": "solid",
    "harmonic": "longdashdot",
}
"""A plotly line dash for each family, for lines that must be told apart without colour."""


Scale: TypeAlias = list[list[float | str]]


ScaleName = Literal["field", "diverging"]


def _stops(colors: Sequence[str]) -> Scale:
    return [[i / (len(colors) - 1), color] for i, color in enumerate(colors)]


FIELD_SCALE: Scale = _stops(plotly.colors.sequential.Viridis)
"""For a field without a special value: viridis, perceptually uniform and readable without colour vision."""


DIVERGING_SCALE: Scale = _stops(
    [
        "#123c73",
        "#345fa0",
        "#5c84bd",
        "#8dabd3",
        "#c0d2e6",
        "#f2f1ee",
        "#ecc9a6",
        "#d99f68",
        "#bd7536",
        "#94500f",
        "#643000",
    ]
)
"""For a field with a meaningful zero: blue below, brown above, as light as paper at zero, equally dark at
both ends."""


MISSING_COLOR = "#9aa1a8"
"""Where a field has no value."""


NEUTRAL = "#757f88"
"""Text and lines that must be readable on a white and on a dark page alike (contrast 4 on both)."""


DARK_LINE = "#1d2730"
"""Coastlines on light colours."""


LIGHT_LINE = "#f4f6f7"
"""Coastlines on dark colours."""


MARKER = "#d1290b"
"""Places that are marked on a map."""


THEMES = {
    "light": {
        "text": "#1c2730",
        "muted": "#55626d",
        "line": "#9aa7b1",
        "grid": "#e2e7eb",
        "raised": "#ffffff",
        "page": "#ffffff",
        "accent": "#0b6480",
        "coast": DARK_LINE,
        "focus": "#0b6480",
        "danger": "#a3260f",
    },
    "dark": {
        "text": "#dce4ea",
        "muted": "#9dabb6",
        "line": "#6b7a86",
        "grid": "#2b3843",
        "raised": "#1d2932",
        "page": "#10171d",
        "accent": "#6fcbe6",
        "coast": DARK_LINE,
        "focus": "#8fd8ee",
        "danger": "#ff9d85",
    },
}
"""Colours of the page around a figure, for the light and the dark theme."""


FONT = 'Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def encoder_color(key: str) -> str:
    """The colour of the family of encoder ``key``; rows that are no encoders (``no_prior``) have the neutral
    colour."""
    return FAMILY_COLORS[ENCODERS[key].family] if key in ENCODERS else NEUTRAL


def encoder_dash(key: str) -> str:
    """The line dash of the family of encoder ``key``."""
    return FAMILY_DASHES[ENCODERS[key].family] if key in ENCODERS else "dot"


def css_tokens(selector: str = ".tslab") -> str:
    """The design tokens as CSS custom properties: ``--tslab-text`` and so on, for ``selector`` and its dark
    form."""
    families = {f"family-{name.replace(' ', '-')}": color for name, color in FAMILY_COLORS.items()}
    shared = families | {"missing": MISSING_COLOR, "neutral": NEUTRAL, "font": FONT}
    rules = [(selector, shared | THEMES["light"]), (f'{selector}[data-theme="dark"]', THEMES["dark"])]
    return "".join(
        f"{where} {{\n" + "".join(f"  --tslab-{name}: {value};\n" for name, value in tokens.items()) + "}\n"
        for where, tokens in rules
    )


def named_scale(scale: ScaleName | Scale) -> Scale:
    if isinstance(scale, str):
        named = {"field": FIELD_SCALE, "diverging": DIVERGING_SCALE}
        if scale not in named:
            raise ValueError(f"scale must be 'field', 'diverging' or a plotly colour scale, got {scale!r}")
        return named[scale]
    return scale


def value_range(
    field: NDArray[np.float64], scale: ScaleName | Scale, limits: tuple[float, float] | None
) -> tuple[float, float]:
    if limits is not None:
        low, high = check_number("limits[0]", limits[0]), check_number("limits[1]", limits[1])
        if low >= high:
            raise ValueError(f"limits must be (lowest, highest), got {limits}")
        return low, high
    finite = field[np.isfinite(field)]
    if not finite.size:
        raise ValueError("the field has no finite value to draw; give limits=(lowest, highest) to draw it empty")
    if scale == "diverging":
        largest = float(np.abs(finite).max()) or 1.0
        return -largest, largest
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def with_missing(scale: Scale) -> Scale:
    """A colour scale for -128 ... 127 whose lowest value is the colour of missing values."""
    first = 1 / 255
    start: Scale = [[0.0, MISSING_COLOR], [first * 0.999, MISSING_COLOR]]
    return start + [[first + (1 - first) * float(stop), color] for stop, color in scale]
