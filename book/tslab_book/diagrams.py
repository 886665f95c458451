"""Drawings of how the benchmark works: boxes and arrows as inline SVG, for light and dark pages alike.

Lines and text take the colour of the page's text, so a drawing follows the theme; boxes are tinted by what they hold.
They are narrow enough for a phone and are drawn for this book.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from IPython.display import HTML

from tslab.plot import FAMILY_COLORS

WIDTH = 400
LINE_PX = 16

TINTS: dict[str, str] = {
    "place": FAMILY_COLORS["sphere2vec"],
    "image": FAMILY_COLORS["planar"],
    "both": FAMILY_COLORS["harmonic"],
    "score": FAMILY_COLORS["kernel"],
}
"""What a box holds -> colour."""


@dataclass(frozen=True)
class Box:
    """A box of a drawing: middle of its top edge, width, lines of text (the first one bold), kind (of `TINTS`)."""

    x: float
    y: float
    width: float
    lines: Sequence[str]
    kind: str

    @property
    def height(self) -> float:
        """Height in pixels of the drawing."""
        return LINE_PX * len(self.lines) + 14


def diagram(
    boxes: Mapping[str, Box], arrows: Sequence[tuple[str, str]], *, alt: str, caption: str, notes: Sequence[Box] = ()
) -> HTML:
    """Boxes joined by arrows that go down from one to the next, as a figure with caption and text alternative.

    Args:
        boxes: name -> box.
        arrows: pairs of names, from and to.
        alt: what the drawing says, for those who do not see it.
        caption: below it.
        notes: text without a frame.

    Raises:
        ValueError: an empty text alternative, or an arrow to a box that is not there.
    """
    if not alt.strip():
        raise ValueError("alt is empty; say in one or two sentences what the drawing shows")
    if missing := {name for pair in arrows for name in pair} - set(boxes):
        raise ValueError(f"arrows name boxes that are not there: {', '.join(sorted(missing))}")
    bottom = max(box.y + box.height for box in (*boxes.values(), *notes)) + 4
    parts = [_arrow(boxes[start], boxes[end]) for start, end in arrows]
    parts += [_framed(box) for box in boxes.values()] + [_text(note) for note in notes]
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {bottom:g}" role="img" aria-label="{html.escape(alt, quote=True)}" '
        'style="display:block;width:100%;max-width:34rem;height:auto;margin:auto" font-family="system-ui, sans-serif" '
        f'font-size="12.5" fill="currentColor" stroke-width="1.4">{"".join(parts)}</svg>'
    )
    return HTML(
        f'<figure class="tslab-diagram" style="margin:1rem 0">{svg}'
        f'<figcaption class="tslab-caption">{caption}</figcaption></figure>'
    )


def framework() -> HTML:
    """From the datasets to the scores."""
    left, right, middle = 105, 295, 200
    boxes = {
        "data": Box(middle, 4, 380, ["LocBench", "7 datasets of pictures, 10 of numbers"], "both"),
        "place": Box(left, 74, 180, ["Place x", "longitude, latitude"], "place"),
        "image": Box(right, 74, 180, ["Image I", "or one value of it"], "image"),
        "pe": Box(left, 144, 180, ["Position encoding PE", "a fixed formula"], "place"),
        "nn": Box(left, 214, 180, ["Network NN", "learned"], "place"),
        "network": Box(
            right, 144, 180, ["Image network", "trained before;", "what it says of I", "stays as it is"], "image"
        ),
        "fusion": Box(middle, 290, 380, ["Fusion", "a product of probabilities, or one joined vector"], "both"),
        "answer": Box(middle, 360, 380, ["Answer", "a class, or a number"], "both"),
        "quality": Box(left, 430, 180, ["How good?", "Top-1, MRR; R², errors"], "score"),
        "bias": Box(right, 430, 180, ["How even?", "geo-bias, base and relative"], "score"),
    }
    arrows = [("data", "place"), ("data", "image"), ("place", "pe"), ("pe", "nn"), ("nn", "fusion")]
    arrows += [
        ("image", "network"),
        ("network", "fusion"),
        ("fusion", "answer"),
        ("answer", "quality"),
        ("answer", "bias"),
    ]
    return diagram(
        boxes,
        arrows,
        alt="Flow chart of the benchmark. Datasets give a place and an image. The place goes through a position "
        "encoding and a network, the image through an image network that is not trained here; both are fused into an "
        "answer, which is scored for quality and for geo-bias.",
        caption="The framework: only the blue column differs between the rows of a table.",
    )


def classification_inference() -> HTML:
    """How the class of a picture is found."""
    left, right, middle = 105, 295, 200
    boxes = {
        "place": Box(left, 4, 180, ["Place x"], "place"),
        "image": Box(right, 4, 180, ["Image I"], "image"),
        "encoder": Box(left, 58, 180, ["Location encoder", "e(x) = NN(PE(x))"], "place"),
        "network": Box(right, 58, 180, ["Image network", "frozen"], "image"),
        "prior": Box(left, 128, 180, ["P(y | x) = σ(e(x) · w_y)", "yes or no, class by class"], "place"),
        "picture": Box(right, 128, 180, ["P(y | I)", "one softmax over classes"], "image"),
        "product": Box(middle, 204, 380, ["P(y | I) · P(y | x)", "class by class"], "both"),
        "answer": Box(middle, 274, 380, ["The largest is the answer", "no location: P(y | I) alone"], "both"),
    }
    arrows = [("place", "encoder"), ("encoder", "prior"), ("prior", "product"), ("image", "network")]
    arrows += [("network", "picture"), ("picture", "product"), ("product", "answer")]
    return diagram(
        boxes,
        arrows,
        alt="Flow chart. A place goes through the location encoder to a probability for each class that it occurs "
        "there; the image through a frozen network to a probability for each class. The two are multiplied class by "
        "class, and the largest product is the answer; without a location the image decides alone.",
        caption="Inference for pictures: the location is a prior over classes. The image network never sees it.",
    )


def regression_inference() -> HTML:
    """How the number of a place is found."""
    left, right, middle = 105, 295, 200
    boxes = {
        "place": Box(left, 4, 180, ["Place x"], "place"),
        "image": Box(right, 4, 180, ["Image I"], "image"),
        "encoder": Box(left, 58, 180, ["Location encoder", "e(x) = NN(PE(x))"], "place"),
        "network": Box(right, 58, 180, ["Small image network", "f(I), on frozen features"], "image"),
        "joined": Box(middle, 134, 380, ["[ f(I), e(x) ]", "joined; until June 2024 multiplied"], "both"),
        "head": Box(middle, 204, 380, ["Head", "a small network with one output, ŷ"], "both"),
    }
    arrows = [
        ("place", "encoder"),
        ("encoder", "joined"),
        ("image", "network"),
        ("network", "joined"),
        ("joined", "head"),
    ]
    return diagram(
        boxes,
        arrows,
        alt="Flow chart. A place goes through the location encoder to an embedding, the image through frozen features "
        "and a small network to a vector; the two are joined, and a head turns them into one number.",
        caption="Inference for numbers: encoder, image branch and head are trained together. As released, e(x) passes "
        "a sigmoid before it is joined; in tslab that is an option.",
    )


def _framed(box: Box) -> str:
    color = TINTS[box.kind]
    return (
        f'<rect x="{box.x - box.width / 2:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="6" '
        f'fill="{color}" fill-opacity="0.14" stroke="{color}"/>{_text(box)}'
    )


def _text(box: Box) -> str:
    lines = []
    for place, line in enumerate(box.lines):
        weight = ' font-weight="600"' if place == 0 else ""
        y = box.y + 7 + LINE_PX * (place + 0.78)
        lines.append(f'<text x="{box.x:g}" y="{y:g}" text-anchor="middle"{weight}>{html.escape(line)}</text>')
    return "".join(lines)


def _arrow(start: Box, end: Box) -> str:
    """From the lower edge of one box straight down to the upper edge of the next, under the narrower of the two."""
    x = start.x if start.width <= end.width else end.x
    top, tip = start.y + start.height, end.y
    return (
        f'<path d="M{x:g} {top:g}V{tip - 6:g}" stroke="currentColor" fill="none"/>'
        f'<path d="M{x - 4:g} {tip - 7:g}L{x:g} {tip - 1:g}L{x + 4:g} {tip - 7:g}Z"/>'
    )
