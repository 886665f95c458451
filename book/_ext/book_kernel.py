"""What the kernel of the book build does differently, run by IPython before the first cell of a chapter.

A chapter shows figures the way it does in Jupyter. Only here, in the build, a plotly figure becomes a small
block of HTML: its JSON, a place to draw it and its text alternative, for ``tslab-figures.js`` to draw when
the reader comes near it, in the colours of the theme. The file is copied into an IPython profile of the
build by ``execution.py``; Jupyter and Colab never see it.
"""

from __future__ import annotations

import base64
import html
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
            "data": _halve_precision(fig_dict.get("data", [])),
            "layout": layout,
            "frames": _halve_precision(fig_dict.get("frames") or []),
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


def _halve_precision(value: Any) -> Any:
    """Send float64 arrays as float32: what a screen shows needs no more, and the page is half as heavy."""
    if isinstance(value, dict):
        if value.get("dtype") == "f8" and "bdata" in value:
            raw = value["bdata"]
            array = np.frombuffer(base64.b64decode(raw) if isinstance(raw, str) else raw, dtype="<f8")
            if array.size < 256:
                return value
            short = base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")
            return {**value, "dtype": "f4", "bdata": short}
        return {key: _halve_precision(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_halve_precision(item) for item in value]
    return value


pio.renderers["tslab-book"] = BookRenderer()
pio.renderers.default = "tslab-book"
