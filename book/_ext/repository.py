"""Where the repository is: its address stands in ``pyproject.toml`` and nowhere else; all code asks here."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def repository_address() -> tuple[str, str]:
    """Address and branch of the repository: ``[project.urls] Repository`` and ``[tool.tslab] branch``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["urls"]["Repository"].rstrip("/"), project["tool"]["tslab"]["branch"]


def colab_url(docname: str) -> str:
    """Address that opens the generated notebook of a chapter (``"encoders/wrap"``) in Colab."""
    repository, branch = repository_address()
    path = repository.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{path}/blob/{branch}/book/notebooks/{docname}.ipynb"
