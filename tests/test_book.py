"""The sources of the book: one table of contents, one repository address, no registry in the front end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK / "_ext"))
sys.path.insert(0, str(BOOK))

import make_notebooks  # noqa: E402
from repository import colab_url, repository_address  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CHAPTERS = [
    path
    for path in sorted(BOOK.rglob("*.md"))
    if make_notebooks.NOT_CHAPTERS.isdisjoint(path.relative_to(BOOK).parts)
]


def test_every_chapter_is_in_the_table_of_contents() -> None:
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    listed = sorted(_files(toc))
    written = sorted(path.relative_to(BOOK).with_suffix("").as_posix() for path in CHAPTERS)
    assert listed == written


def test_the_repository_address_stands_in_one_place() -> None:
    """Apart from pyproject.toml only the generated notebooks spell it out."""
    owner_and_name = repository_address()[0].removeprefix("https://github.com/")
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("needs a git checkout")
    holders = {
        name
        for name in listing.stdout.splitlines()
        if (ROOT / name).is_file()
        and owner_and_name in (ROOT / name).read_text(encoding="utf-8", errors="ignore")
    }
    assert {name for name in holders if not name.startswith("book/notebooks/")} == {"pyproject.toml"}


def test_colab_opens_a_notebook_that_exists() -> None:
    for chapter in make_notebooks.executable_chapters():
        docname = chapter.relative_to(BOOK).with_suffix("").as_posix()
        path = colab_url(docname).partition(f"/blob/{repository_address()[1]}/")[2]
        assert (ROOT / path).is_file(), f"{path} is missing: run `make notebooks`"


def test_requirements_pin_every_dependency_of_the_package() -> None:
    pins = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)
    )
    loose = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["onnx"]
    for requirement in loose:
        name, lower = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement).groups()
        assert name in pins, f"requirements.txt does not pin {name}"
        assert _numbers(pins[name]) >= _numbers(lower)


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((BOOK / "frontend" / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert not [name for name, entry in packages.items() if "resolved" in entry]
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())


@pytest.mark.parametrize(
    ("myst", "plain"),
    [
        ("(a-label)=\n# Title", "# Title"),
        ("{math}`x^2` and {func}`~tslab.coords.unit_vectors`", "$x^2$ and `unit_vectors`"),
        ("As {cite:t}`wu2024torchspatial` show", "As Wu et al., 2024 show"),
        ("```{note}\nMind the *gap*.\n```", "> **Note**\n>\n> Mind the *gap*."),
        ("```{math}\n:label: eq\nx = 1\n```", "$$\nx = 1\n$$"),
        ("[next](#label), [home](intro.md)", "next, [home](intro.ipynb)"),
        ("```python\n# {math}`kept`\n```", "```python\n# {math}`kept`\n```"),
    ],
)
def test_notebooks_show_no_raw_myst(myst: str, plain: str) -> None:
    assert make_notebooks.plain_markdown(myst, BOOK / "intro.md").strip() == plain


def test_a_hidden_solution_stays_hidden_in_the_notebook() -> None:
    myst = ":::{admonition} Solution\n:class: dropdown\nBecause $1 + 1 = 2$.\n:::"
    plain = make_notebooks.plain_markdown(myst, BOOK / "intro.md").strip()
    assert plain == "<details>\n<summary>Solution</summary>\n\nBecause $1 + 1 = 2$.\n\n</details>"


def test_an_included_source_is_the_real_source() -> None:
    myst = "```{literalinclude} _ext/repository.py\n:pyobject: colab_url\n```"
    plain = make_notebooks.plain_markdown(myst, BOOK / "intro.md").strip()
    code = plain.removeprefix("```python\n").removesuffix("\n```")
    assert code.startswith("def colab_url(") and code in (BOOK / "_ext" / "repository.py").read_text()


@pytest.mark.parametrize(
    ("kinds", "bundle"),
    [
        (["scatter", "bar"], "basic"),
        (["scattergeo", "choropleth", "scatter"], "geo"),
        (["heatmap", "scatter"], "cartesian"),
        (["scattergeo", "heatmap"], "full"),
        (["surface", "scatter3d"], "gl3d"),
        (["surface", "heatmap"], "full"),
        ([], "basic"),
    ],
)
def test_a_figure_loads_the_smallest_bundle_that_draws_it(kinds: list[str], bundle: str) -> None:
    source = (BOOK / "_ext" / "book_kernel.py").read_text(encoding="utf-8")
    probe = f"print(bundle_for({{'data': [{{'type': kind}} for kind in {kinds!r}]}}))"
    run = subprocess.run([sys.executable, "-c", source + probe], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == bundle


def test_a_docstring_keeps_its_stars_and_bars() -> None:
    from docstrings import to_rst

    rst = to_rst("Ratio |a| / |b| * 2.\n\nArgs:\n    a: the first,\n        continued.\n    b: the second.")
    assert rst.split("\n") == [
        "Ratio \\|a\\| / \\|b\\| \\* 2.", "",
        "**Args**", "",
        "* ``a``: the first, continued.", "",
        "* ``b``: the second.", "", "",
    ]  # fmt: skip


def test_the_version_is_the_same_everywhere() -> None:
    import tslab

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == tslab.__version__


def _files(node: object) -> list[str]:
    """Every document named in a table of contents."""
    if isinstance(node, list):
        return [name for item in node for name in _files(item)]
    if isinstance(node, dict):
        own = [value for key, value in node.items() if key in ("root", "file")]
        return own + [
            name for value in node.values() if isinstance(value, (dict, list)) for name in _files(value)
        ]
    return []


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
