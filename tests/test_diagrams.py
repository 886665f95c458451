"""The drawings: whole, named for those who do not see them, and in the colours of the page."""

import re
from xml.etree import ElementTree

import pytest

from tslab_book.diagrams import Box, classification_inference, diagram, framework, regression_inference


@pytest.mark.parametrize("draw", [framework, classification_inference, regression_inference])
def test_a_drawing_is_an_image_with_a_name_and_follows_the_theme(draw):
    (svg,) = re.findall("<svg.*</svg>", draw().data)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label").startswith("Flow chart")
    assert root.get("fill") == "currentColor"  # of the page, light or dark
    assert not re.search(r"https?:|url\(|<image|black|white", svg)
    width, height = map(float, root.get("viewBox").split()[2:])
    boxes = [{name: float(rect.get(name)) for name in ("x", "y", "width", "height")} for rect in root.iter("rect")]
    assert all(b["x"] >= 0 and b["x"] + b["width"] <= width and b["y"] + b["height"] <= height for b in boxes)
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            beside = a["x"] + a["width"] <= b["x"] or b["x"] + b["width"] <= a["x"]
            assert beside or a["y"] + a["height"] <= b["y"] or b["y"] + b["height"] <= a["y"]
    for arrow in root.iter("path"):
        if match := re.fullmatch(r"M([\d.]+) ([\d.]+)V([\d.]+)", arrow.get("d")):
            assert float(match[3]) > float(match[2])  # down, and not of no length


def test_text_is_escaped_and_what_is_missing_is_named():
    box = {"a": Box(200, 4, 100, ["x < y"], "both")}
    assert "x &lt; y" in diagram(box, [], alt="One box.", caption="").data
    with pytest.raises(ValueError, match="boxes that are not there: b"):
        diagram(box, [("a", "b")], alt="One box.", caption="")
    with pytest.raises(ValueError, match="alt is empty"):
        diagram(box, [], alt=" ", caption="")
