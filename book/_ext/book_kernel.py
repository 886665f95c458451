"""What the kernel of the book build does differently, run by IPython before the first cell of a chapter.

A chapter shows figures the way it does in Jupyter. Only here, in the build, a plotly figure becomes a small
block of HTML: its JSON, a place to draw it and its text alternative, for ``tslab-figures.js`` to draw when
the reader comes near it, in the colours of the theme. The file is copied into an IPython profile of the
build by ``execution.py``; Jupyter and Colab never see it.
"""

from __future__ import annotations

import base64
import html
import math
from typing import Any

import numpy as np
import plotly.io as pio
from plotly.io.base_renderers import MimetypeRenderer
from plotly.io.json import to_json_plotly

#: Trace types that the partial plotly.js bundles can draw; the smallest that holds all of a figure is loaded.
BUNDLES = {
    "basic": {"scatter", "bar", "pie"},
    "gl3d": {"scatter", "scatter3d", "surface", "mesh3d", "isosurface", "volume", "cone", "streamtube"},
    "geo": {"scatter", "scattergeo", "choropleth"},
    "cartesian": {
        "scatter", "bar", "pie", "box", "heatmap", "histogram", "histogram2d", "histogram2dcontour", "image",
        "contour", "scatterternary", "violin",
    },
}  # fmt: skip


#: Step that stands for a missing number in a packed array.
MISSING = 65535


class BookRenderer(MimetypeRenderer):
    """Show a plotly figure as data that the page draws.

    The text alternative is read from ``fig.layout.meta["alt"]``, the caption, if there is one, from
    ``fig.layout.meta["caption"]``.
    """

    def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, str]:
        layout = fig_dict.get("layout", {})
        meta = layout.get("meta")
        meta = meta if isinstance(meta, dict) else {}
        config = {"responsive": True, "displaylogo": False, "scrollZoom": False, **(fig_dict.get("config") or {})}
        spec = {
            "data": pack(fig_dict.get("data", [])),
            "layout": layout,
            "frames": pack(fig_dict.get("frames") or []),
            "config": config,
        }
        # "</script>" and "<!--" inside a string would end or open a block of the page.
        text = to_json_plotly(spec).replace("<", "\\u003c")
        alt = html.escape(str(meta.get("alt", "")), quote=True)
        height = int(layout.get("height") or 450)
        caption = f"<figcaption>{meta['caption']}</figcaption>" if meta.get("caption") else ""
        return {
            "text/html": (
                f'<figure class="tslab-figure" data-bundle="{bundle_for(fig_dict)}">'
                f'<div class="tslab-plot" role="group" aria-label="{alt}" style="height:{height}px"></div>'
                f'<script type="application/json" class="tslab-spec">{text}</script>'
                f"<noscript><p>{alt}</p></noscript>{caption}</figure>"
            )
        }


def bundle_for(fig_dict: dict[str, Any]) -> str:
    """Name of the smallest plotly.js bundle that draws every trace of the figure."""
    kinds = {trace.get("type", "scatter") for trace in fig_dict.get("data", [])}
    for frame in fig_dict.get("frames") or []:
        kinds |= {trace["type"] for trace in frame.get("data", []) if "type" in trace}
    return next((name for name, known in BUNDLES.items() if kinds <= known), "full")


def pack(value: Any) -> Any:
    """Send long arrays as what a screen can show of them, so that the page is lighter.

    An array of floats becomes float32 or, where that loses nothing visible, 16-bit steps between its extremes:
    ``low + step * n``, rounded to ``digits`` decimals, NaN for the highest step. Then ``dtype`` is "steps", and
    ``tslab-figures.js`` unpacks it. Positive numbers over many orders of magnitude, which may stand on a logarithmic
    axis, stay floats.
    """
    if isinstance(value, dict):
        if value.get("dtype") in ("f4", "f8") and "bdata" in value:
            raw = value["bdata"]
            raw = base64.b64decode(raw) if isinstance(raw, str) else raw
            array = np.frombuffer(raw, dtype="<" + value["dtype"]).astype(float)
            return value if array.size < 256 else {**value, **_shorter(array, str(value.get("shape", "")))}
        return {key: pack(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item) for item in value]
    return value


def _shorter(array: np.ndarray, shape: str) -> dict[str, Any]:
    missing = np.isnan(array)
    low, high = (float(array[~missing].min()), float(array[~missing].max())) if not missing.all() else (0.0, 0.0)
    many_orders = 0 < 1000 * low < high
    if not (np.isfinite([low, high]).all() and low < high) or many_orders or shape.count(",") > 1:
        return {"dtype": "f4", "bdata": base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")}
    step = (high - low) / (MISSING - 1)
    numbers = np.where(missing, MISSING, np.round((np.where(missing, low, array) - low) / step)).astype("<u2")
    return {
        "dtype": "steps",
        "bdata": base64.b64encode(numbers.tobytes()).decode("ascii"),
        "low": low,
        "step": step,
        "digits": max(0, math.floor(-math.log10(step))),
    }


pio.renderers["tslab-book"] = BookRenderer()
pio.renderers.default = "tslab-book"
