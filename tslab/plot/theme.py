"""How figures look and are displayed: the plotly template, the matplotlib style, text alternatives and captions.

Importing this module registers the plotly template ``tslab`` and makes it the default.
"""

import base64
import html
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

from tslab.plot.colors import DIVERGING_SCALE, FAMILY_COLORS, FIELD_SCALE, STYLE


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
