"""The browser side of the widgets, as Python needs it: one JavaScript module, one style sheet, the
coastlines in bytes."""

import re
from functools import cache
from importlib import resources

import numpy as np

from tslab.earth import land_lines
from tslab.plot.colors import css_tokens

MODULES = ("maps.js", "backends.js", "explorer.js", "laboratory.js")
"""The front end of the explorer and of the laboratory of the book, in the order of its imports. A widget's code must be
one module, so they are joined."""


@cache
def script() -> str:
    """The JavaScript modules joined to one: imports between them and exports but the default one are taken
    out."""
    parts = [re.sub(r"^import .*?;\n", "", _read(name), flags=re.MULTILINE | re.DOTALL) for name in MODULES]
    return "".join(re.sub(r"^export (?!default)", "", part, flags=re.MULTILINE) for part in parts)


@cache
def style_sheet() -> str:
    """The widget's style sheet, with the design tokens of `tslab.plot` in front."""
    return css_tokens(".tslab-explorer") + _read("explorer.css")


@cache
def packed_land() -> bytes:
    """The coastlines as int16 pairs in hundredths of a degree; -32768 marks a break."""
    hundredths = np.round(np.nan_to_num(land_lines() * 100, nan=-32768.0))
    return hundredths.astype("<i2").tobytes()


def _read(name: str) -> str:
    return resources.files("tslab.widgets").joinpath(name).read_text(encoding="utf-8")
