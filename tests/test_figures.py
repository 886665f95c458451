"""The visual language: colours that all readers can tell apart, maps that keep areas and seams, figures with words."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import numpy as np
import plotly
import pytest

from tslab import plot
from tslab.encoders import ENCODERS
from tslab.plot.style import DARK_LINE, FAMILY_DASHES, STYLE, THEMES, css_tokens

TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
#: Linear RGB as seen with full colour-vision deficiency: Machado, Oliveira and Fernandes, IEEE TVCG 2009.
VISION = {
    "full": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def linear_rgb(colors: list[str]) -> np.ndarray:
    rgb = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in colors])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def cielab(linear: np.ndarray) -> np.ndarray:
    xyz = np.clip(linear, 0, 1) @ TO_XYZ.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1)


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio."""
    light, dark = sorted((linear_rgb([one, other]) @ TO_XYZ[1]).tolist(), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("vision", VISION)
def test_family_colors_differ_for_every_kind_of_colour_vision(vision: str) -> None:
    lab = cielab(linear_rgb(list(plot.FAMILY_COLORS.values())) @ VISION[vision].T)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(len(lab))
    assert distance.min() > 20


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colors_stand_out_from_the_page(theme: str) -> None:
    tokens = THEMES[theme]
    assert all(contrast(color, tokens["page"]) > 2.7 for color in plot.FAMILY_COLORS.values())
    for background in ("page", "raised"):
        assert all(contrast(tokens[name], tokens[background]) > 4.5 for name in ("text", "muted", "accent", "danger"))
    assert contrast(plot.NEUTRAL, tokens["page"]) > 4


def test_every_encoder_has_the_color_of_its_family() -> None:
    assert set(plot.FAMILY_COLORS) == set(FAMILY_DASHES)
    for key, info in ENCODERS.items():
        assert plot.encoder_color(key) == plot.FAMILY_COLORS[info.family]
    assert plot.encoder_color("no_prior") == plot.NEUTRAL


def test_the_style_sheet_names_no_other_colours_than_the_palette() -> None:
    """Transparent, a shade of the neutral colour, or the neutral colour itself: readable on both pages."""
    named = set(re.findall(r'"(#[0-9a-f]{6}|rgba\([^)]*\))"', json.dumps(STYLE["template"] | STYLE["map_axes"])))
    neutral = ",".join(str(int(plot.NEUTRAL[i : i + 2], 16)) for i in (1, 3, 5))
    assert plot.NEUTRAL in named
    assert all(c == plot.NEUTRAL or c == "rgba(0,0,0,0)" or c.startswith(f"rgba({neutral},") for c in named)
    assert {theme["coast"] for theme in THEMES.values()} == {DARK_LINE}


def test_field_scale_grows_lighter_evenly() -> None:
    lightness = cielab(linear_rgb([color for _, color in plot.FIELD_SCALE]))[:, 0]
    steps = np.diff(lightness)
    assert steps.min() > 0.6 * steps.mean()


def test_diverging_scale_is_lightest_at_zero_and_even_on_both_sides() -> None:
    lightness = cielab(linear_rgb([color for _, color in plot.DIVERGING_SCALE]))[:, 0]
    assert lightness.argmax() == len(lightness) // 2
    np.testing.assert_allclose(lightness, lightness[::-1], atol=2)
    assert np.ptp(np.abs(np.diff(lightness))) < 4


def test_equal_earth_keeps_areas_and_can_be_inverted() -> None:
    lon, lat = np.meshgrid(np.linspace(-179, 179, 41), np.linspace(-89.9, 89.9, 41))
    x, y = plot.equal_earth(lon, lat)
    back_lon, back_lat = plot.inverse_equal_earth(x, y)
    np.testing.assert_allclose(back_lon, lon, atol=1e-9)
    np.testing.assert_allclose(back_lat, lat, atol=1e-7)
    h = 1e-4
    x_lon = (plot.equal_earth(lon + h, lat)[0] - x) / np.deg2rad(h)
    y_lat = (plot.equal_earth(lon, lat + h)[1] - plot.equal_earth(lon, lat - h)[1]) / np.deg2rad(2 * h)
    area = x_lon * y_lat / np.cos(np.deg2rad(lat))  # y does not depend on longitude
    np.testing.assert_allclose(area, area[0, 0], rtol=1e-3)
    assert np.isnan(plot.inverse_equal_earth(2.6, 1.2)).all()


LON, LAT = np.arange(-178, 180, 4.0), np.arange(-88, 90, 4.0)


def test_globe_does_not_smooth_across_the_date_line() -> None:
    field = np.broadcast_to(LON, (LAT.size, LON.size))
    surface = plot.globe(LON, LAT, field).data[0]
    x, y, z, color = (np.asarray(a, float) for a in (surface.x, surface.y, surface.z, surface.surfacecolor))
    np.testing.assert_allclose(x**2 + y**2 + z**2, 1e8, rtol=1e-3)
    np.testing.assert_allclose([x[:, 0], y[:, 0]], [x[:, -1], y[:, -1]], atol=1)  # closed at the date line
    assert set(color[:, 0]) == {-178} and set(color[:, -1]) == {178}


def test_map_shows_the_nearest_value_and_nothing_outside_the_world() -> None:
    field = np.broadcast_to(LAT[:, None], (LAT.size, LON.size))
    heat = plot.world_map(LON, LAT, field).data[0]
    lon, lat = plot.inverse_equal_earth(*np.meshgrid(heat.x, heat.y))
    z = np.asarray(heat.z, float)
    assert np.array_equal(np.isnan(z), np.isnan(lon))
    assert np.nanmax(np.abs(z - lat)) <= 2 + 1e-6
    assert not np.isnan(plot.world_map(LON, LAT[::-1], field[::-1]).data[0].z).all()


@pytest.mark.skipif(int(plotly.__version__.split(".")[0]) < 6, reason="plotly 5 writes numbers as text")
def test_figures_weigh_kilobytes() -> None:
    field = np.random.default_rng(0).normal(size=(LAT.size, LON.size))
    assert len(plot.globe(LON, LAT, field).to_json()) < 130_000
    assert len(plot.world_map(LON, LAT, field).to_json()) < 190_000


def test_diverging_limits_are_symmetric() -> None:
    heat = plot.world_map(LON, LAT, np.full((LAT.size, LON.size), 0.25), scale="diverging").data[0]
    assert (heat.zmin, heat.zmax) == (-0.25, 0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lon": LON, "lat": LAT, "values": np.zeros((90, 45))}, "transpose"),
        ({"values": np.zeros((45, 90))}, "need a grid"),
        ({"lon": LON[::-1], "lat": LAT, "values": np.zeros((45, 90))}, "lon must increase"),
        ({"lon": LON, "lat": LAT, "values": np.full((45, 90), np.nan)}, "no finite value"),
        ({"points": [1.0, 2.0]}, "points must have shape"),
        ({"lon": LON, "lat": LAT, "values": np.zeros((45, 90)), "scale": "rainbow"}, "scale must be"),
        ({"lon": [], "lat": [], "values": np.zeros((0, 0))}, "no cell"),
        ({"lon": LON, "lat": LAT * np.nan, "values": np.zeros((45, 90))}, "lat must be degrees"),
        ({"lon": LON, "lat": LAT * 2, "values": np.zeros((45, 90))}, "lat must be degrees"),
        ({"lon": LON * 2, "lat": LAT, "values": np.zeros((45, 90))}, "360 degrees wide"),
        ({"lon": LON, "lat": LAT, "values": np.zeros((45, 90)), "limits": (1, 1)}, "limits must be"),
        ({"lon": LON, "lat": LAT, "values": np.zeros((45, 90)), "limits": (0, np.nan)}, "limits"),
        ({"points": [[0.0, 0.0], [10.0, 95.0]]}, r"points\[1\] = \(10.0, 95.0\)"),
        ({"points": [[0.0, 0.0]], "point_text": ["a", "b"]}, "one text for each of 1 points, got 2"),
        ({"height": 0}, "height"),
    ],
)
@pytest.mark.parametrize("build", [plot.globe, plot.world_map])
def test_wrong_input_is_named(build: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_wrong_colours_sizes_and_views_are_named() -> None:
    with pytest.raises(ValueError, match="one number for each of 1 points"):
        plot.world_map(points=[[0.0, 0.0]], point_color=[1.0, 2.0])
    with pytest.raises(ValueError, match="point_size"):
        plot.world_map(points=[[0.0, 0.0]], point_size=np.nan)
    with pytest.raises(ValueError, match="center"):
        plot.globe(center=(0, 91))
    with pytest.raises(ValueError, match="projection"):
        plot.static_map(projection="mercator")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width"):
        plot.static_map(width=-1.0)


@pytest.mark.parametrize("build", [plot.globe, plot.world_map])
def test_nothing_to_mark_is_an_empty_map_and_a_missing_place_is_not_drawn(build: Any) -> None:
    empty = build(points=[])
    assert len(empty.data[-1].x) == 0
    hole = build(points=[[0.0, 0.0], [np.nan, np.nan]])
    assert np.isnan(hole.data[-1].x[1]) and hole.data[-1].text[1] == "no location"
    build(lon=LON, lat=LAT, values=np.full((45, 90), np.nan), limits=(0, 1))


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a notebook would show."""
    import IPython.display
    import plotly.graph_objects as go

    shown: list[Any] = []
    monkeypatch.setattr(IPython.display, "display", lambda *objects: shown.extend(objects))
    monkeypatch.setattr(go.Figure, "show", lambda self, **_: shown.append(self))
    return shown


def test_show_keeps_the_text_alternative_and_puts_the_caption_below(displayed: list[Any]) -> None:
    figure = plot.globe(points=[[2.35, 48.85]])
    plot.show(figure, alt="A globe with Paris.", caption="Paris.")
    assert displayed[0].layout.meta["alt"] == "A globe with Paris."
    assert displayed[1].data == '<p class="tslab-caption">Paris.</p>'
    with pytest.raises(ValueError, match="alt is empty"):
        plot.show(figure, alt=" ")


def test_in_the_book_the_renderer_writes_the_caption(displayed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import plotly.io as pio

    monkeypatch.setattr(type(pio.renderers), "default", "tslab-book")
    plot.show(plot.globe(points=[[0, 0]]), alt="A globe.", caption="Null Island.")
    assert len(displayed) == 1
    assert displayed[0].layout.meta["caption"] == "Null Island."


@pytest.mark.parametrize("projection", ["equal_earth", "globe"])
def test_static_map_needs_no_network(projection: Any, displayed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cartopy", reason="cartopy is not installed: pip install 'tslab[maps]'")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    figure, _ = plot.static_map(projection=projection)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())
    assert 0.05 < (pixels[..., :3] == [0xDD, 0xE4, 0xE8]).all(-1).mean() < 0.5  # land, but not everywhere
    plot.show(figure, alt='The "world".', caption="Land.")
    assert 'alt="The &quot;world&quot;."' in displayed[0].data


def test_css_carries_the_same_tokens() -> None:
    css = css_tokens(".x")
    assert f"--tslab-family-sphere2vec: {plot.FAMILY_COLORS['sphere2vec']};" in css
    light, dark = css.split('.x[data-theme="dark"]')
    assert THEMES["light"]["text"] in light and THEMES["dark"]["text"] in dark
