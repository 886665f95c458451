"""Docstrings for the reference pages.

The docstrings of tslab are plain text to be read in an editor: formulas with stars and bars, sections such as
``Args:`` whose indented lines say ``name: what it is``. This turns them into reStructuredText when autodoc
fetches them.
"""

from __future__ import annotations

import re
from typing import Any

_SECTION = re.compile(r"^(Args|Arguments|Returns|Yields|Raises|Attributes|Source|Sources|Columns|Example|Examples):$")
_EMPHASIS = r"(?<![\w*`])\*[A-Za-z][^*`]*\w\*(?![\w*])"
_ITEM = re.compile(r"^(\*{0,2}[\w.,() `*/-]{1,80}?): (.+)$")


def rewrite(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """``autodoc-process-docstring``: replace the lines of a docstring in place."""
    lines[:] = to_rst("\n".join(lines)).split("\n")


def to_rst(text: str) -> str:
    """A plain docstring as reStructuredText."""
    text = re.sub(r"\{(ref|doc|cite:t|cite:p)\}`", r":\1:`", text)  # roles as the chapters write them
    out: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        out += _block(block.split("\n"))
    return "\n".join(out) + "\n"


def _block(lines: list[str]) -> list[str]:
    """One paragraph, in which a line that ends in a colon may be followed by indented items."""
    if lines[0].startswith((">>>", "    ")):
        return ["::", "", *(f"    {line}" for line in lines), ""]
    out: list[str] = []
    prose: list[str] = []
    at = 0
    while at < len(lines):
        if lines[at].startswith("    "):
            end = next((k for k in range(at, len(lines)) if not lines[k].startswith("    ")), len(lines))
            if prose and _SECTION.match(prose[-1]):
                heading = prose.pop()
                out += _paragraph(prose) + [f"**{heading[:-1]}**", ""]
            else:
                out += _paragraph(prose)
            prose = []
            out += _items([line[4:] for line in lines[at:end]])
            at = end
        elif re.match(r"^[-*] ", lines[at]):
            out += _paragraph(prose)
            prose = []
            end = at + 1
            while end < len(lines) and lines[end].startswith("  "):
                end += 1
            out += [f"* {_escape(' '.join([lines[at][2:], *map(str.strip, lines[at + 1 : end])]))}", ""]
            at = end
        else:
            prose.append(lines[at])
            at += 1
    return out + _paragraph(prose)


def _items(lines: list[str]) -> list[str]:
    """``name: text`` lines, continued on lines indented further, as a list; anything else as a paragraph."""
    entries: list[list[str]] = []
    for line in lines:
        if entries and (line.startswith("    ") or not _ITEM.match(line)):
            entries[-1].append(line.strip())
        else:
            entries.append([line])
    out: list[str] = []
    for entry in entries:
        text = " ".join(entry)
        if match := _ITEM.match(text):
            out += [f"* ``{match[1].replace('`', '')}``: {_escape(match[2])}", ""]
        else:
            out += [_escape(text), ""]
    return out


def _paragraph(lines: list[str]) -> list[str]:
    return [_escape(line) for line in lines] + [""] if lines else []


def _escape(text: str) -> str:
    """Keep stars, bars and trailing underscores as they are, except inside ``literals`` and *emphasis*."""
    parts = re.split(rf"(``.+?``|`[^`]+`|{_EMPHASIS})", text)
    out = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            # a literal ends only before a space or a mark
            out += "\\ " if index and part and not re.match(r"[\s.,;:!?)\]}'\"/–—-]", part) else ""
            part = re.sub(r"([*|\\])|(?<=\w)(_)(?!\w)", r"\\\g<0>", part)
        out += part
    return out
