"""The explorer shows what an encoder does: live in Jupyter and Colab, and in a static page without any kernel."""

from tslab.widgets.explorer import EncoderExplorer

__all__ = ["EncoderExplorer"]
