"""Widgets that show what an encoder does: live in Jupyter and Colab, and in a static page without any
kernel."""

from tslab.widgets.explorer import EncoderExplorer
from tslab.widgets.laboratory import Laboratory

__all__ = ["EncoderExplorer", "Laboratory"]
