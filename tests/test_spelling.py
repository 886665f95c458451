"""Spelling: what is known as a slip of the pen, in chapters, docstrings and the texts of the repository."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Words that codespell takes for slips and that are meant.
MEANT = ("ot", "nome")


def _texts() -> list[Path]:
    chapters = [path for path in (ROOT / "book").rglob("*.md") if "node_modules" not in path.parts]
    return [*ROOT.glob("*.md"), *chapters, *(ROOT / "tslab").rglob("*.py"), *(ROOT / "book" / "_ext").glob("*.py")]


def _slips(paths: list[Path]) -> str:
    if importlib.util.find_spec("codespell_lib") is None:
        pytest.skip("codespell is not installed: pip install codespell")
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", ",".join(MEANT), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_words_are_spelled_right() -> None:
    assert _slips(_texts()) == ""


def test_a_slip_is_found(tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("This is " + "te" + "h end.", encoding="utf-8")
    assert "the" in _slips([text])
