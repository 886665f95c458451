"""Lines of code that break where the column ends, and go on under their own indentation, instead of being cut off."""

from __future__ import annotations

import html
import re

_BLOCK = re.compile(r'(<div class="highlight"><pre[^>]*>(?:<span></span>)?)(.*?)(</pre></div>)', re.DOTALL)
_TAG = re.compile(r"<[^>]+>")


def breakable(page: str) -> str:
    """The HTML of a page with an element for each line of code, which carries the line's indentation.

    The style sheet breaks these lines. Blocks with elements that span lines, such as the marks of the pages with the
    whole source of a module, are left as they are.
    """
    return _BLOCK.sub(_lines, page)


def _lines(block: re.Match[str]) -> str:
    start, code, end = block.groups()
    if "<div" in code or 'class="hll"' in code:
        return block[0]
    lines = code.splitlines(keepends=True)
    return start + "".join(map(_line, lines)) + end


def _line(line: str) -> str:
    text = html.unescape(_TAG.sub("", line))
    indentation = len(text) - len(text.lstrip(" "))
    style = f' style="--indent:{indentation}"' if indentation and text.strip() else ""
    return f'<span class="tslab-line"{style}>{line}</span>'
