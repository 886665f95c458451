"""Versions: the bounds, the tested set, its lock and the workflows agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def _lines(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def _pin(wish: Requirement) -> Version:
    (only,) = wish.specifier
    return Version(only.version)


def _bounds() -> dict[str, Requirement]:
    """What pyproject.toml asks for, by name."""
    wishes = [
        *PROJECT["dependencies"],
        *(w for extra in PROJECT["optional-dependencies"].values() for w in extra),
    ]
    return {wish.name: wish for wish in map(Requirement, wishes) if wish.name != "tslab"}


TESTED = {wish.name: _pin(wish) for wish in _lines("requirements.txt")}
LOCKED = {wish.name: wish for wish in map(Requirement, re.findall(r"^[a-z0-9][^\\\n]*", LOCK, re.MULTILINE))}


def test_the_tested_set_holds_all_that_the_package_asks_for() -> None:
    bounds = _bounds()
    assert set(bounds) <= set(TESTED)
    assert not [name for name, wish in bounds.items() if TESTED[name] not in wish.specifier]


def test_what_colab_has_is_enough() -> None:
    """Installing tslab there must replace nothing."""
    bounds = _bounds()
    has = {wish.name: _pin(wish) for wish in _lines("tests/versions/colab.txt")}
    assert {"torch", "numpy", "pandas", "plotly", "pooch", "pyarrow"} <= set(has)
    assert not [name for name, version in has.items() if version not in bounds[name].specifier]


def test_the_lock_holds_the_tested_set_except_torch() -> None:
    """Run `make lock` after a change of requirements.txt."""
    assert set(TESTED) - set(LOCKED) == {"torch"}
    assert {name: _pin(LOCKED[name]) for name in set(TESTED) - {"torch"}} == {
        name: version for name, version in TESTED.items() if name != "torch"
    }


def test_the_lock_holds_what_torch_needs_on_every_system_and_nothing_that_only_some_builds_need() -> None:
    assert {"sympy", "networkx", "jinja2", "fsspec", "typing-extensions"} <= set(LOCKED)
    assert not [name for name in LOCKED if name.startswith(("nvidia", "cuda", "triton", "torch"))]


def test_every_line_of_the_lock_has_a_hash_and_none_an_address() -> None:
    blocks = re.findall(r"^[a-z0-9].*(?:\n .*)*", LOCK, re.MULTILINE)
    assert len(blocks) > 200
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert "://" not in LOCK and not re.search(r"^-", LOCK, re.MULTILINE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_name_actions_by_commit(path: Path) -> None:
    """A tag can be moved; the version stands behind it as a comment."""
    used = re.findall(r"uses: *(.*)", path.read_text(encoding="utf-8"))
    assert used
    assert not [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)]
