"""How figures look and are displayed: colours, the plotly template, the matplotlib style, text alternatives, captions.

Colours (one for each encoder family, scales for fields, tokens for the page around a figure) are chosen in
``data/figure_style.json`` and nowhere else. Plotly, matplotlib and the widget's style sheet (`css_tokens`) all read
them. Importing this module registers the plotly template ``tslab`` and makes it the default.
"""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
import plotly.colors
import plotly.graph_objects as go
import plotly.io as pio
from numpy.typing import NDArray

from tslab._checks import check_number
from tslab._files import packaged_json
from tslab.encoders import ENCODERS

STYLE = packaged_json("figure_style.json")
"""How figures look: palette, plotly template, matplotlib settings, axes of maps, colour bars."""

FAMILY_COLORS: dict[str, str] = {name: look["color"] for name, look in STYLE["families"].items()}
"""One colour for each encoder family. Close to Okabe and Ito's, moved apart until every pair differs by more
than 20 CIELAB units for readers with protan, deutan and tritan vision too, and until each has a contrast of
2.7 on the white and on the dark page."""

FAMILY_DASHES: dict[str, str] = {name: look["dash"] for name, look in STYLE["families"].items()}
"""A plotly line dash for each family, for lines that must be told apart without colour."""

Scale: TypeAlias = list[list[float | str]]

ScaleName = Literal["field", "diverging"]


def _stops(colors: Sequence[str]) -> Scale:
    return [[i / (len(colors) - 1), color] for i, color in enumerate(colors)]


FIELD_SCALE: Scale = _stops(plotly.colors.sequential.Viridis)
"""For a field without a special value: viridis, perceptually uniform and readable without colour vision."""

DIVERGING_SCALE: Scale = _stops(STYLE["diverging"])
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

THEMES: dict[str, dict[str, str]] = STYLE["themes"]
"""Colours of the page around a figure, for the light and the dark theme."""


def show(figure: Any, *, alt: str, caption: str | None = None) -> None:
    """Display a plotly or matplotlib figure with a text alternative and, unless it is None, a caption below
    it.

    Works in the book, in Jupyter and in Colab. ``alt`` says what the picture shows to those who do not see
    it; it is kept in ``figure.layout.meta["alt"]``. ``caption`` says what to look at; it may contain inline
    HTML. Leave it None only where the sentence beside the figure already does that.

    Raises:
        ValueError: an empty text alternative.
    """
    from IPython.display import HTML, display

    if not isinstance(alt, str) or not alt.strip():
        raise ValueError("alt is empty; say in one or two sentences what the figure shows")
    if not isinstance(figure, go.Figure):
        display(HTML(_matplotlib_html(figure, alt, caption)))
        return
    meta = dict(figure.layout.meta or {}) | {"alt": alt}
    in_book = pio.renderers.default == "tslab-book"  # its renderer writes the caption itself, as a <figcaption>
    if caption and in_book:
        meta["caption"] = caption
    figure.update_layout(meta=meta)
    figure.show(config={"scrollZoom": False, "displaylogo": False, "responsive": True})
    if caption and not in_book:
        display(HTML(f'<p class="tslab-caption">{caption}</p>'))


@contextmanager
def matplotlib_style() -> Iterator[None]:
    """Within this context matplotlib figures have the fonts, colours and transparent background of the other
    figures."""
    import matplotlib as mpl
    from cycler import cycler

    style: Any = STYLE["matplotlib"] | {"axes.prop_cycle": cycler(color=list(FAMILY_COLORS.values()))}
    with mpl.rc_context(style):
        yield


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
    shared = families | {"missing": MISSING_COLOR, "neutral": NEUTRAL, "font": STYLE["font"]}
    rules = [(selector, shared | THEMES["light"]), (f'{selector}[data-theme="dark"]', THEMES["dark"])]
    return "".join(
        f"{where} {{\n" + "".join(f"  --tslab-{name}: {value};\n" for name, value in tokens.items()) + "}\n"
        for where, tokens in rules
    )


def colored(
    values: NDArray[np.float64], scale: ScaleName | Scale, limits: tuple[float, float] | None, label: str
) -> dict[str, Any]:
    """Plotly's arguments for numbers that are drawn as colours: scale, limits and colour bar.

    The bar stands below the figure, so that a phone's width is left to the map.
    """
    named = {"field": FIELD_SCALE, "diverging": DIVERGING_SCALE}
    if isinstance(scale, str) and scale not in named:
        raise ValueError(f"scale must be 'field', 'diverging' or a plotly colour scale, got {scale!r}")
    low, high = value_range(values, scale, limits)
    return {
        "colorscale": named[scale] if isinstance(scale, str) else scale,
        "cmin": low,
        "cmax": high,
        "colorbar": color_bar("bar_below", label),
    }


def color_bar(style: str, label: str) -> dict[str, Any]:
    """One of the colour bars of `STYLE`, with its title."""
    return STYLE[style] | {"title": STYLE[style]["title"] | {"text": label}}


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


def _template() -> go.layout.Template:
    """Transparent, in the system's font, and readable on light and dark pages without knowing which one it
    is on."""
    font = {"family": STYLE["font"]}
    layout = STYLE["template"] | {
        "font": STYLE["template"]["font"] | font,
        "hoverlabel": {"font": font},
        "colorway": list(FAMILY_COLORS.values()),
        "colorscale": {"sequential": FIELD_SCALE, "diverging": DIVERGING_SCALE},
    }
    field = {"colorscale": FIELD_SCALE, "colorbar": layout["coloraxis"]["colorbar"]}
    return go.layout.Template(layout=layout, data={kind: [field] for kind in ("heatmap", "surface", "contour")})


def _matplotlib_html(figure: Any, alt: str, caption: str | None) -> str:
    """A matplotlib figure as an <img> with its text alternative, closed so that the notebook does not show
    it twice."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    below = f'<p class="tslab-caption">{caption}</p>' if caption else ""
    return f'<img class="dark-light" alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}">{below}'


pio.templates["tslab"] = _template()


pio.templates.default = "tslab"
