"""Markup of the theme and of other extensions that a screen reader stumbles over, and what stands for it here."""

from __future__ import annotations

import re
from collections.abc import Callable

#: What is replaced as it stands.
REPLACED = {
    # hides the text of the summary itself, "Show code cell source"
    '<summary aria-label="Toggle hidden content">': "<summary>",
    # the entries of a list are its items
    'role="doc-biblioentry"': 'role="listitem"',
    # the button that folds a part of the table of contents shows an arrow only
    '<summary><span class="toctree-toggle"': '<summary aria-label="Pages below this one"><span class="toctree-toggle"',
}


def _signature_lines(match: re.Match[str]) -> str:
    return match[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")


#: What is found by a pattern.
REWRITTEN: dict[re.Pattern[str], str | Callable[[re.Match[str]], str]] = {
    # the parameters of a long signature come as a definition list without terms; lines of text are enough
    re.compile(r'<dl>\s*((?:<dd><em class="sig-param">.*</dd>\s*)+)</dl>'): _signature_lines,
    # the corner of a table that has a header for each row is the header of nothing
    re.compile(r"<th\b([^>]*)>(?:\s|<p>\s*</p>)*</th>"): r"<td\1></td>",
    # a button is called what it shows, "Search Ctrl+K"
    re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="Search"'): r"\1",
}


def clearer(page: str) -> str:
    """The HTML of a finished page with clearer markup; nothing is left to change in what this returns."""
    for old, new in REPLACED.items():
        page = page.replace(old, new)
    for pattern, replacement in REWRITTEN.items():
        page = pattern.sub(replacement, page)
    return page
