"""Less to load: figures apart from their page, and the theme without what the book does not use.

The data of a figure, often more than all the text around it, moves from the page into a small script of its own,
which ``tslab-figures.js`` loads when the reader comes near the figure. The frames that its slider shows, often most of
that data, move into another one, which is loaded when the reader reaches for the figure.

The theme ships 2,000 icons three times over: as a script (1.5 MB), as fonts (270 kB) and as a rule of the style
sheet for each. The pages use some twenty of them. When all pages are written, the script is emptied (its style
sheet draws the same icons from the font; the script would also replace the icons inside widgets, which makes their
Play button throw), the fonts are cut to the icons that occur, and the rules of the others go. The fonts of the text
are cut to the characters of western European languages and those that occur. The search index is loaded by the
search page only (``templates/layout.html``), the logo of Colab when its menu opens.

The theme's own script asks each code block and each output whether it scrolls and marks it, one after the other; each
mark makes the browser lay the whole page out again, which takes seconds on a long page. The script is changed to ask
all of them first.

Sphinx would report these files as changed when it copies the theme again, so they are removed before each build.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

ICON_SCRIPT = "scripts/fontawesome.js"
THEME_SCRIPT = "scripts/pydata-sphinx-theme.js"
STYLE_SHEET = "styles/pydata-sphinx-theme.css"
ICON_FONTS = ("vendor/fontawesome/webfonts/*.woff2", "tslab/widgets/**/*.woff2")
#: Characters of icons that the controls of ipywidgets use: play, pause, stop, repeat, and so on.
WIDGET_ICONS = {0xF00C, 0xF00D, 0xF01E, 0xF04B, 0xF04C, 0xF04D, 0xF093, 0xF0D7, 0xF0DA, 0xF363}
TEXT_FONTS = "tslab/fonts/*.woff2"
#: Letters, digits and marks that stay in the fonts of the text whether they occur or not.
LATIN = set(range(0x20, 0x17F)) | set(range(0x2010, 0x203A))
ZERO_WIDTH_SPACE = 0x200B
TEXT_FEATURES = ("kern", "liga", "mark", "mkmk", "ccmp", "calt", "tnum", "lnum")
#: Lightest and boldest weight that the style sheet asks for.
WEIGHTS = (400, 720)

FIGURES = "figures"
#: Data of a figure shorter than this stays on its page, in characters.
SMALL_FIGURE = 4000
_SPEC = re.compile(r'<script type="application/json" class="tslab-spec">(.*?)</script>', re.DOTALL)
_SPEC_NAMES = re.compile(r'class="tslab-spec" data-name="(\w+)"(?: data-frames="(\w+)")?')

#: Rules that give icons their character: ``.fa-bars:before,.fa-navicon:before{content:"\\f0c9"}``.
_ICON_RULE = re.compile(r'((?:\.fa-[\w-]+:{1,2}before,?)+)\{content:"\\([0-9a-f]+)"\}')
_ICON_NAME = re.compile(r"\bfa-[a-z0-9-]+")
#: ``document.querySelectorAll([...].join(", ")).forEach(e=>{e.tabIndex=<does it scroll>?0:-1})`` in the theme's script.
_TAB_STOPS = re.compile(
    r'document\.querySelectorAll\((\[[^\]]*\]\.join\(", "\))\)\.forEach\((\w)=>\{\2\.tabIndex=([^;{}]*)\?0:-1\}\)'
)
_COLAB_LOGO = re.compile(r"<img (?![^>]*loading=)(?=[^>]*logo_colab\.png)")
_CHARACTER = re.compile(r'"\\([ef][0-9a-f]{3})"')


def move_figures(body: str, html: Path) -> str:
    """The body of a page with the data of its figures moved into scripts below ``_static/figures``."""
    folder = html / "_static" / FIGURES

    def write(text: str) -> str:
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        script = f'(window.tslabFigures = window.tslabFigures || {{}})["{name}"] = {text};\n'
        (folder / f"{name}.js").write_text(script, encoding="utf-8")
        return name

    def move(match: re.Match[str]) -> str:
        if len(match[1]) < SMALL_FIGURE:
            return match[0]
        spec = json.loads(match[1])
        frames = _json(spec.get("frames", []))
        later = ""
        if len(frames) > SMALL_FIGURE:
            spec["frames"], later = [], f' data-frames="{write(frames)}"'
        return f'<script type="application/json" class="tslab-spec" data-name="{write(_json(spec))}"{later}></script>'

    return _SPEC.sub(move, body)


def _json(value: Any) -> str:
    """JSON that can stand inside a page: no string in it ends or opens a block."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def remove_trimmed(static: Path) -> None:
    """Before the build: forget the files that the last one trimmed."""
    changed = (static / name for name in (ICON_SCRIPT, THEME_SCRIPT, STYLE_SHEET))
    for path in (*changed, *icon_fonts(static), *static.glob(TEXT_FONTS)):
        path.unlink(missing_ok=True)


def icon_fonts(static: Path) -> list[Path]:
    return [path for pattern in ICON_FONTS for path in static.glob(pattern)]


def trim(html: Path) -> None:
    """After the build: leave of the theme's files what the pages use."""
    static = html / "_static"
    (static / ICON_SCRIPT).write_text("/* icons come from the style sheet */\n", encoding="utf-8")
    script = static / THEME_SCRIPT
    script.write_text(ask_before_marking(script.read_text(encoding="utf-8")), encoding="utf-8")
    for source_map in (*static.glob("scripts/*.map"), *static.glob("styles/*.map")):
        source_map.unlink()

    sources = [*html.rglob("*.html"), *(static / "scripts").glob("*.js"), *static.glob("*.js")]
    names = {name for path in sources for name in _ICON_NAME.findall(path.read_text(encoding="utf-8"))}
    sheet = static / STYLE_SHEET
    css, characters = used_rules(sheet.read_text(encoding="utf-8"), names)
    sheet.write_text(css, encoding="utf-8")
    for other in static.rglob("*.css"):
        characters |= icon_characters(other.read_text(encoding="utf-8"))
    for font in icon_fonts(static):
        cut_font(font, characters | WIDGET_ICONS)

    occurring = LATIN.copy()
    for page in html.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        occurring |= set(map(ord, set(text)))
        if (lazy := _COLAB_LOGO.sub('<img loading="lazy" ', text)) != text:
            page.write_text(lazy, encoding="utf-8")
    for font in static.glob(TEXT_FONTS):
        cut_font(font, occurring - {ZERO_WIDTH_SPACE}, TEXT_FEATURES)
        cut_weights(font)

    pages = (page.read_text(encoding="utf-8") for page in html.rglob("*.html"))
    kept = {name for page in pages for names in _SPEC_NAMES.findall(page) for name in names}
    for figure in (static / FIGURES).glob("*.js"):
        if figure.stem not in kept:
            figure.unlink()


def ask_before_marking(script: str) -> str:
    """The theme's script, which marks what scrolls, asking all elements before it marks the first."""
    asking = r"Array.from(document.querySelectorAll(\1),\2=>[\2,\3])"
    return _TAB_STOPS.sub(asking + r".forEach(([\2,scrolls])=>{\2.tabIndex=scrolls?0:-1})", script)


def used_rules(css: str, names: set[str]) -> tuple[str, set[int]]:
    """A style sheet without the rules of icons that are not among ``names``, and the characters of the others."""
    characters: set[int] = set()

    def keep(match: re.Match[str]) -> str:
        if names.isdisjoint(_ICON_NAME.findall(match[1])):
            return ""
        characters.add(int(match[2], 16))
        return match[0]

    return _ICON_RULE.sub(keep, css), characters


def icon_characters(css: str) -> set[int]:
    """Icons that a style sheet puts somewhere itself, written as such or as an escape."""
    escaped = {int(code, 16) for code in _CHARACTER.findall(css)}
    return escaped | {ord(character) for character in css if 0xE000 <= ord(character) <= 0xF8FF}


def cut_font(path: Path, characters: set[int], features: tuple[str, ...] = ()) -> None:
    """Keep the given characters and typographic features of a font."""
    from fontTools.subset import Options, Subsetter, load_font, save_font

    options = Options(flavor="woff2", layout_features=list(features), notdef_outline=True)
    options.drop_tables += ["FFTM"]  # a note of the font editor
    font = load_font(str(path), options)
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=characters)
    subsetter.subset(font)
    save_font(font, str(path), options)


def cut_weights(path: Path) -> None:
    """Keep the weights of a variable font that are in use."""
    from fontTools.ttLib import TTFont
    from fontTools.varLib.instancer import instantiateVariableFont

    font = TTFont(path, lazy=False)
    for table in list(font.keys()):
        font[table]  # the instancer needs all of them unpacked
    instantiateVariableFont(font, {"wght": WEIGHTS}, inplace=True)
    font.save(path)
