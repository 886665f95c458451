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

from repository import colab_url, repository_address  # noqa: E402

import make_notebooks  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CHAPTERS = [
    path for path in sorted(BOOK.rglob("*.md")) if make_notebooks.NOT_CHAPTERS.isdisjoint(path.relative_to(BOOK).parts)
]
API_PAGES = sorted((BOOK / "reference").glob("api*.md"))
#: Chapters of the course: all but the home page and the reference.
COURSE = [path for path in CHAPTERS if path.parent != BOOK / "reference" and path.stem != "intro"]
#: What a reader finds in every chapter, and a sign of it in the source.
PARTS_OF_A_CHAPTER = {
    "learning goals": r"^:+\{admonition\} What you will learn$",
    "an exercise": r"^:+\{admonition\} Exercise",
    "a hidden solution": r"^:class: dropdown|hide-cell",
    "key points": r"^:+\{admonition\} Key points$",
    "further reading": r"^:+\{admonition\} Further reading$",
    "links to the API": r"\{(py:)?(func|class|mod|meth|data|obj)\}`",
}


def test_no_two_works_have_the_same_label() -> None:
    # citations read "first author et al., year", so the year needs a letter where both agree
    works = re.split(r"^@", (BOOK / "references.bib").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    fields = [tuple(re.search(rf"{name}\s*=\s*{{(.+?)[,}}]", work)[1] for name in ("author", "year")) for work in works]
    assert len(set(fields)) == len(fields)


def test_every_chapter_is_in_the_table_of_contents() -> None:
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    listed = sorted(_files(toc))
    written = sorted(path.relative_to(BOOK).with_suffix("").as_posix() for path in CHAPTERS)
    assert listed == written


@pytest.mark.parametrize("chapter", COURSE, ids=lambda path: path.stem)
def test_a_chapter_has_all_its_parts(chapter: Path) -> None:
    source = chapter.read_text(encoding="utf-8")
    missing = [part for part, sign in PARTS_OF_A_CHAPTER.items() if not re.search(sign, source, re.MULTILINE)]
    assert not missing, f"{chapter.relative_to(BOOK)} has no {', no '.join(missing)}"


def test_the_repository_address_stands_in_one_place() -> None:
    """Apart from pyproject.toml only the generated notebooks spell it out."""
    owner_and_name = repository_address()[0].removeprefix("https://github.com/")
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("needs a git checkout")
    holders = {
        name
        for name in listing.stdout.splitlines()
        if (ROOT / name).is_file() and owner_and_name in (ROOT / name).read_text(encoding="utf-8", errors="ignore")
    }
    assert {name for name in holders if not name.startswith("book/notebooks/")} == {"pyproject.toml"}


def test_colab_opens_a_notebook_that_exists() -> None:
    for chapter in make_notebooks.executable_chapters():
        docname = chapter.relative_to(BOOK).with_suffix("").as_posix()
        path = colab_url(docname).partition(f"/blob/{repository_address()[1]}/")[2]
        assert (ROOT / path).is_file(), f"{path} is missing: run `make notebooks`"


def test_requirements_pin_every_dependency_of_the_package() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE))
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


def test_long_arrays_are_packed_without_a_visible_loss() -> None:
    probe = """
import json
wave = np.sin(np.linspace(0, 9, 600)).reshape(20, 30)
wave[3, 4] = np.nan
degrees, decades = np.arange(-180.0, 180.5, 0.5), np.logspace(-9, 3, 400)
figure = {"z": wave, "x": degrees, "y": decades, "short": degrees[:9]}
spec = {name: {"dtype": "f8", "bdata": base64.b64encode(a.tobytes()).decode()} for name, a in figure.items()}
spec["z"]["shape"] = "20, 30"
packed = pack(spec)
def unpack(entry):
    steps = np.frombuffer(base64.b64decode(entry["bdata"]), "<u2")
    return np.where(steps == MISSING, np.nan, np.round(entry["low"] + steps * entry["step"], entry["digits"]))
print(json.dumps({
    "kinds": [packed[name]["dtype"] for name in figure],
    "error": float(np.nanmax(np.abs(unpack(packed["z"]) - wave.ravel()))),
    "missing": np.flatnonzero(np.isnan(unpack(packed["z"]))).tolist(),
    "degrees": bool((unpack(packed["x"]) == degrees).all()),
    "ratio": len(packed["z"]["bdata"]) / len(spec["z"]["bdata"]),
}))
"""
    source = (BOOK / "_ext" / "book_kernel.py").read_text(encoding="utf-8")
    run = subprocess.run([sys.executable, "-c", source + probe], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert found["kinds"] == [
        "steps",
        "steps",
        "f4",
        "f8",
    ]  # many orders of magnitude and short ones stay floats
    assert found["error"] < 1e-4 and found["missing"] == [94] and found["degrees"]
    assert found["ratio"] == pytest.approx(0.25, abs=0.01)


def test_a_docstring_keeps_its_stars_and_bars() -> None:
    from docstrings import to_rst

    rst = to_rst("Ratio |a| / |b| * 2.\n\nArgs:\n    a: the first,\n        continued.\n    b: the second.")
    assert rst.split("\n") == [
        "Ratio \\|a\\| / \\|b\\| \\* 2.", "",
        "**Args**", "",
        "* ``a``: the first, continued.", "",
        "* ``b``: the second.", "", "",
    ]  # fmt: skip
    assert to_rst("Of *all* samples; a*b, x * y, *args and **kwargs.") == (
        "Of *all* samples; a\\*b, x \\* y, \\*args and \\*\\*kwargs.\n\n"
    )


def test_icons_that_a_page_uses_keep_their_rule_and_their_character() -> None:
    from trim import icon_characters, used_rules

    css = '.fa-bars:before,.fa-navicon:before{content:"\\f0c9"}.fa-bus:before{content:"\\f207"}.fa-lg{font-size:2em}'
    kept, characters = used_rules(css, {"fa-navicon", "fa-lg"})
    assert kept == '.fa-bars:before,.fa-navicon:before{content:"\\f0c9"}.fa-lg{font-size:2em}'
    assert characters == {0xF0C9}
    assert icon_characters('--bell:"\uf0f3"; a:after{content:"\\f107"} b:after{content:"x"}') == {
        0xF0F3,
        0xF107,
    }


def test_the_script_of_the_theme_asks_before_it_marks() -> None:
    """In the very theme that is installed, so that a new one that says it otherwise is noticed."""
    import pydata_sphinx_theme
    from trim import THEME_SCRIPT, ask_before_marking

    static = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
    script = (static / THEME_SCRIPT).read_text(encoding="utf-8")
    marking = r"\.forEach\(\(\[e,scrolls\]\)=>\{e\.tabIndex=scrolls\?0:-1\}\)"
    assert len(re.findall(marking, ask_before_marking(script))) == 1


def test_buttons_and_corners_are_called_what_they_show() -> None:
    from accessibility import clearer

    button = '<button class="btn search-button-field x" title="Search" aria-label="Search" data-y="z">'
    corner = '<th class="head"><p></p></th><th>a</th>'
    page = clearer(f'{button}<summary><span class="toctree-toggle"></span></summary>{corner}')
    assert page.startswith('<button class="btn search-button-field x" title="Search" data-y="z">')
    assert '<summary aria-label="Pages below this one"><span' in page
    assert page.endswith('<td class="head"></td><th>a</th>')


def test_a_line_of_code_carries_its_indentation() -> None:
    from code_lines import breakable

    code = '<span></span><span class="k">def</span> f():\n    <span class="k">return</span> &lt;1&gt;\n\n'
    page = breakable(f'<p>  x</p><div class="highlight"><pre>{code}</pre></div>')
    lines = re.findall(r'<span class="tslab-line"( style="--indent:\d+")?>', page)
    assert lines == ["", ' style="--indent:4"', ""]
    assert re.sub(r"<[^>]+>", "", page) == "  x" + re.sub(r"<[^>]+>", "", code)


def test_the_data_of_a_large_figure_leaves_its_page(tmp_path: Path) -> None:
    from trim import move_figures

    tag = '<script type="application/json" class="tslab-spec">'
    spec = {"data": ["<b>", *range(2000)], "layout": {}, "frames": [{"name": "1", "data": list(range(3000))}]}
    text = json.dumps(spec).replace("<", "\\u003c")
    body = move_figures(f"<p>Text</p>{tag}{text}</script>{tag}{{}}</script>", tmp_path)
    name, frames = re.search(r'data-name="(\w+)" data-frames="(\w+)"></script>', body).groups()
    assert "1999" not in body and f"{tag}{{}}</script>" in body

    def stored(name: str) -> object:
        script = (tmp_path / "_static" / "figures" / f"{name}.js").read_text(encoding="utf-8")
        assert "<" not in script
        return json.loads(re.fullmatch(r'.*\["(\w+)"\] = (.*);\n', script)[2])

    assert stored(name) == spec | {"frames": []} and stored(frames) == spec["frames"]


def test_every_module_of_the_package_is_on_one_page_of_the_reference() -> None:
    from reference import public_modules

    pages = "".join(page.read_text(encoding="utf-8") for page in API_PAGES)
    listed = re.findall(r"api-module:: (\S+)", pages)
    programs = {name for name in public_modules() if name.endswith("__main__")}
    wanted = set(public_modules()) - programs
    missing, surplus = sorted(wanted - set(listed)), sorted(set(listed) - wanted)
    assert not missing and not surplus, f"on no page of book/reference: {missing}; gone: {surplus}"
    assert len(listed) == len(set(listed))


def test_the_reference_names_everything_that_a_package_offers() -> None:
    import importlib

    from reference import PACKAGES, documented_name, members, public_modules, public_name

    documented = {public for name in public_modules() for _, _, public in members(importlib.import_module(name))}
    for package in PACKAGES:
        module = importlib.import_module(package)
        values = {name: getattr(module, name) for name in module.__all__}
        names = {
            name: public_name(value.__module__, name, value)
            if callable(value)
            else documented_name(f"{package}.{name}")
            for name, value in values.items()
        }
        missing = [name for name, full in names.items() if full not in documented]
        assert not missing, f"{package}: no docstring, or no comment on the constant: {missing}"


def test_names_in_chapters_are_names_of_the_package() -> None:
    """A reference to something that does not exist would be a plain word on the page."""
    from reference import _ROLE, documented_name

    for path in CHAPTERS:
        for content in _ROLE.findall(path.read_text(encoding="utf-8")):
            target = re.sub(r"^.*<([^>]+)>$", r"\1", content).lstrip("~!")
            if target.startswith("tslab"):
                assert documented_name(target), f"{path.relative_to(BOOK)} refers to {target}"


def test_a_docstring_names_the_chapter_that_explains_it() -> None:
    from reference import explanations

    assert "geobias/self_information" in explanations()["tslab.geobias.ssi"]
    assert "encoders/tile" in explanations()["tslab.encoders.planar.Tile"]


def test_the_version_is_the_same_everywhere() -> None:
    import tslab

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d\S*)", changes, flags=re.MULTILINE)[1]
    assert citation["version"] == newest == tslab.__version__


def _files(node: object) -> list[str]:
    """Every document named in a table of contents."""
    if isinstance(node, list):
        return [name for item in node for name in _files(item)]
    if isinstance(node, dict):
        own = [value for key, value in node.items() if key in ("root", "file")]
        return own + [name for value in node.values() if isinstance(value, (dict, list)) for name in _files(value)]
    return []


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
